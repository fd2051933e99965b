"""Cameras around a posed body: the random orbit sampler, and fixed views for previews and measurements."""

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
    """The framed part of a posed body: its centre in world metres and its height in metres."""
    low, high = target.vertices.amin(0), target.vertices.amax(0)
    height = float(high[1] - low[1])
    unit = height / ADULT_HEIGHT
    up = torch.tensor([0.0, 1.0, 0.0], dtype=low.dtype, device=low.device)
    pelvis = target.joints[PELVIS]
    if framing is Framing.BODY:
        return torch.stack([pelvis[0], (low[1] + high[1]) / 2, pelvis[2]]), height
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
    """Square cameras that look at ``centre``.

    Args:
        centre: look-at points in world metres.
        span: height of the image in metres at the centre's depth.
        azimuth, elevation: direction of the camera from the centre, radians.
        fov: field of view, radians.
        size: side of the images in pixels.
    """
    direction = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], -1)
    focal = 0.5 / (fov / 2).tan()
    eye = centre + direction * (focal * span)[:, None]
    K = torch.zeros(len(span), 3, 3, dtype=centre.dtype, device=centre.device)
    K[:, 0, 0] = K[:, 1, 1] = focal * size
    K[:, :2, 2] = size / 2
    K[:, 2, 2] = 1.0
    return Cameras(look_at(eye, centre), K, size, size)


def sample_views(config: CamerasConfig, batch: int, generator: torch.Generator, target: PosedBody, size: int) -> Views:
    """Sample views of a posed body.

    Args:
        config: ranges of angles and spans, and the framings' probabilities.
        batch: number of views B. Azimuths are stratified: one in each of B equal sectors.
        generator: on the CPU.
        target: the body.
        size: side of the images in pixels.
    """
    weights = torch.tensor([_framing(config, framing).probability for framing in Framing])
    picks = torch.multinomial(weights, batch, replacement=True, generator=generator).tolist()
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
    return _views(target, framings, azimuth, elevation, fov, span, shift, size)


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
    """Views for previews and measurements: framing ``i`` from azimuth ``i``.

    Args:
        target: the body.
        framings, azimuths_deg: one entry per view; 0 degrees is in front, 90 at the avatar's left hand.
        size: side of the images in pixels.
        elevation_deg, fov_deg: of all views.
        span: height of the images, as a factor of the framed part's height.
    """
    n = len(framings)
    azimuths = torch.deg2rad(torch.tensor(azimuths_deg, dtype=torch.float32))
    elevations, fovs = torch.full((n,), math.radians(elevation_deg)), torch.full((n,), math.radians(fov_deg))
    return _views(target, tuple(framings), azimuths, elevations, fovs, torch.full((n,), span), torch.zeros(n, 3), size)


def _framing(config: CamerasConfig, framing: Framing) -> FramingConfig:
    return getattr(config, framing.value)


def _views(
    target: PosedBody,
    framings: tuple[Framing, ...],
    azimuth: Tensor,
    elevation: Tensor,
    fov: Tensor,
    span: Tensor,
    shift: Tensor,
    size: int,
) -> Views:
    """``span`` is a factor of the framed part's height, ``shift [B, 3]`` moves the look-at point in units of spans."""
    subjects = [subject(target, framing) for framing in framings]
    metres = span * torch.tensor([height for _, height in subjects])
    centre = torch.stack([centre.cpu() for centre, _ in subjects]) + shift * metres[:, None]
    cameras = orbit(centre, metres, azimuth, elevation, fov, size).to(target.vertices.device)
    return Views(cameras, framings, azimuth, elevation)
