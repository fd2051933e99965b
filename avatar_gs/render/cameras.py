"""Where the cameras stand: an orbit sampler over framings, and fixed views for pictures and measurements."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.geometry import look_at
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.types import Cameras, Framing, PosedBody, Views

HEAD, SPINE3, PELVIS = 15, 9, 0
ADULT_HEIGHT = 1.7


def subject(target: PosedBody, framing: Framing) -> tuple[Float[Tensor, "3"], float]:
    """The centre (world metres) and the size (metres, vertical) of what a framing shows of a posed body."""
    low, high = target.vertices.amin(0), target.vertices.amax(0)
    height = float(high[1] - low[1])
    unit = height / ADULT_HEIGHT
    up = torch.tensor([0.0, 1.0, 0.0], dtype=low.dtype, device=low.device)
    pelvis = target.joints[PELVIS]
    if framing is Framing.BODY:
        centre = torch.stack([pelvis[0], (low[1] + high[1]) / 2, pelvis[2]])
        return centre, height
    if framing is Framing.HEAD:
        return target.joints[HEAD] + 0.06 * unit * up, 0.34 * unit
    if framing is Framing.UPPER:
        return target.joints[SPINE3] + 0.12 * unit * up, 0.85 * unit
    leg = float(pelvis[1] - low[1])
    return torch.stack([pelvis[0], (low[1] + pelvis[1]) / 2 + 0.03 * unit, pelvis[2]]), leg


def orbit(
    centre: Float[Tensor, "B 3"],
    span: Float[Tensor, " B"],
    azimuth: Float[Tensor, " B"],
    elevation: Float[Tensor, " B"],
    fov: Float[Tensor, " B"],
    size: int,
) -> Cameras:
    """Square cameras around ``centre``; pictures span ``span`` metres at the centre's depth (angles in radians)."""
    direction = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], -1)
    focal = 0.5 / (fov / 2).tan()
    eye = centre + direction * (focal * span)[:, None]
    K = torch.zeros(len(span), 3, 3, dtype=centre.dtype, device=centre.device)
    K[:, 0, 0] = K[:, 1, 1] = focal * size
    K[:, :2, 2] = size / 2
    K[:, 2, 2] = 1.0
    return Cameras(look_at(eye, centre), K, size, size)


def sample_views(config: CamerasConfig, batch: int, generator: torch.Generator, target: PosedBody, size: int) -> Views:
    """Random views of a posed body; azimuths are stratified over the batch (one in each of ``batch`` equal sectors)."""
    chances = torch.tensor([_framing(config, framing).probability for framing in Framing])
    picks = torch.multinomial(chances, batch, replacement=True, generator=generator).tolist()
    framings = tuple(list(Framing)[pick] for pick in picks)

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator)

    def between(low: float, high: float) -> Tensor:
        return torch.deg2rad(low + (high - low) * uniform())

    sector = (torch.randperm(batch, generator=generator) + uniform()) / batch
    azimuth = torch.deg2rad(config.azimuth_min + (config.azimuth_max - config.azimuth_min) * sector)
    elevation = between(config.elevation_min, config.elevation_max)
    fov = between(config.fov_min, config.fov_max)
    spans = [_framing(config, framing) for framing in framings]
    lows = torch.tensor([s.span_min for s in spans])
    span = lows + (torch.tensor([s.span_max for s in spans]) - lows) * uniform()
    shift = config.jitter * torch.randn(batch, 3, generator=generator)
    return _around(target, framings, azimuth, elevation, fov, span, shift, size)


def fixed_views(
    target: PosedBody,
    framings: Sequence[Framing],
    azimuths_deg: Sequence[float],
    size: int,
    *,
    elevation_deg: float = 5.0,
    fov_deg: float = 50.0,
    span: float = 1.15,
) -> Views:
    """Views for previews and measurements: framing ``i`` seen from azimuth ``i`` (degrees)."""
    n = len(framings)
    return _around(
        target,
        tuple(framings),
        torch.deg2rad(torch.tensor(azimuths_deg, dtype=torch.float32)),
        torch.full((n,), math.radians(elevation_deg)),
        torch.full((n,), math.radians(fov_deg)),
        torch.full((n,), span),
        torch.zeros(n, 3),
        size,
    )


def _framing(config: CamerasConfig, framing: Framing) -> FramingConfig:
    return {
        Framing.BODY: config.body,
        Framing.HEAD: config.head,
        Framing.UPPER: config.upper,
        Framing.LOWER: config.lower,
    }[framing]


def _around(
    target: PosedBody,
    framings: tuple[Framing, ...],
    azimuth: Tensor,
    elevation: Tensor,
    fov: Tensor,
    span: Tensor,
    shift: Tensor,
    size: int,
) -> Views:
    subjects = [subject(target, framing) for framing in framings]
    metres = span * torch.tensor([height for _, height in subjects])
    centre = torch.stack([centre.cpu() for centre, _ in subjects]) + shift * metres[:, None]
    cameras = orbit(centre, metres, azimuth, elevation, fov, size).to(target.vertices.device)
    return Views(cameras, framings, azimuth, elevation)
