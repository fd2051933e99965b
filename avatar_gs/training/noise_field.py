"""Noise that is fixed on the body's surface, or on the image: a function of (seed, scene, step) only.

Points on the skin carry noise. A latent cell's noise is the sum over the visible points in it divided by the root of
their number, which is white with unit variance, and two views share it as far as their cells show the same skin (CFD,
arXiv:2501.05445). Cells next to the skin take points that hover above it, so that hair and skirts have noise that
stays, too; cells without any take noise that is fixed on the image.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.seeding import derive_seed
from avatar_gs.guidance.noise import NoiseConfig, NoiseKind
from avatar_gs.protocols import Prior
from avatar_gs.render.cpu.scatter import scatter_visible
from avatar_gs.training.config import TrainingConfig
from avatar_gs.types import Cameras, PosedBody

HOVERING = 0.05
"""Height above the skin (metres) of the points for cells next to it."""
HOVERING_EVERY = 4
"""One in so many points on the skin has a point above it."""
OCCLUDED = 0.02
"""Points this far (metres) behind the visible surface are hidden."""


@dataclass(frozen=True)
class _Noise:
    """Independent normal numbers of one time."""

    skin: Float[Tensor, "P c"]
    hovering: Float[Tensor, "H c"]
    image: Float[Tensor, "c h w"]

    def towards(self, other: "_Noise", angle: float) -> "_Noise":
        """``cos(angle) self + sin(angle) other``."""
        cos, sin = math.cos(angle), math.sin(angle)
        return _Noise(*(cos * getattr(self, n) + sin * getattr(other, n) for n in ("skin", "hovering", "image")))


def noise_field(config: TrainingConfig, body: Body, prior: Prior) -> "NoiseField | None":
    """The noise of a run; None if it is independent in every step."""
    noise = config.guidance.noise
    if noise.kind is NoiseKind.independent:
        return None
    return NoiseField(noise, body.rest(), config.seed, channels=prior.latent_channels, size=prior.latent_size)


class NoiseField:
    """The noise of a run's steps.

    Example:
        field = NoiseField(config, body.rest(), seed, channels=prior.latent_channels, size=prior.latent_size)
        noise = field.at(step, posed, cameras, depth)
    """

    def __init__(self, config: NoiseConfig, rest: PosedBody, seed: int, *, channels: int, size: int) -> None:
        """Choose points on the skin, uniformly by area at rest.

        Args:
            rest: the body at rest, on the device of the noise.
            channels: of the latents.
            size: side of the latents.
        """
        self.config, self.seed, self.channels, self.size = config, seed, channels, size
        self._device = rest.vertices.device
        self._times: dict[int, _Noise] = {}
        self._posed: tuple[PosedBody, tuple[Tensor, Tensor]] | None = None
        count = config.points if config.kind is NoiseKind.surface else 0
        corners = rest.vertices[rest.faces].cpu().double()
        areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
        random = torch.Generator().manual_seed(0)
        cumulative = areas.cumsum(0) / areas.sum()
        chosen = torch.searchsorted(cumulative, torch.rand(count, generator=random, dtype=torch.float64))
        self._faces: Int[Tensor, "P 3"] = rest.faces[chosen.clamp(max=len(areas) - 1).to(self._device)]
        first, second = torch.rand(2, count, generator=random)
        folded = first + second > 1
        first, second = torch.where(folded, 1 - first, first), torch.where(folded, 1 - second, second)
        self._barycentric = torch.stack([1 - first - second, first, second], 1).to(self._device)

    @torch.no_grad()
    def at(
        self, step: int, posed: PosedBody, cameras: Cameras, depth: Float[Tensor, "B D D"]
    ) -> Float[Tensor, "B c h w"]:
        """The noise of a step's views: standard normal over seeds, white within each view.

        Args:
            depth: of the body in each view, in metres, 0 where it is empty.
        """
        noise = self._at(step)
        views = noise.image.expand(len(cameras), -1, -1, -1).clone()
        if self.config.kind is not NoiseKind.surface:
            return views
        skin, hovering = self.points(posed)
        for view, image in enumerate(views):
            cells = image.view(self.channels, -1)
            covered = torch.zeros(cells.shape[1], dtype=torch.bool, device=self._device)
            for points, values in ((skin, noise.skin), (hovering, noise.hovering)):
                total, count = self.sums(points, values, cameras[view], depth[view], on_background=points is hovering)
                found = (count > 0) & ~covered
                cells[:, found] = (total[found] / count[found].sqrt()[:, None]).T
                covered |= found
        return views

    def sums(
        self,
        points: Float[Tensor, "P 3"],
        values: Float[Tensor, "P c"],
        camera: Cameras,
        depth: Float[Tensor, "D D"],
        *,
        on_background: bool = False,
    ) -> tuple[Float[Tensor, "cells c"], Float[Tensor, " cells"]]:
        """Sums of the values of the points that are visible in each latent cell, and their number.

        Args:
            camera: of one view.
            depth: of the body in this view.
            on_background: points before an empty background are visible, too.
        """
        projection = _projection(camera).to(points)
        number = self.size * self.size
        if points.device.type == "cpu":
            total = torch.zeros(self.size, self.size, values.shape[1])
            count = torch.zeros(self.size, self.size, dtype=torch.int32)
            arrays = (value.contiguous().numpy() for value in (points, values, projection, depth))
            scatter_visible(*arrays, OCCLUDED, on_background, total.numpy(), count.numpy())
            return total.view(number, -1), count.view(number).float()
        index = self.cells(points, projection, depth, on_background=on_background)
        inside = index >= 0
        total = values.new_zeros(number, values.shape[1]).index_add_(0, index[inside], values[inside])
        return total, torch.bincount(index[inside], minlength=number).float()

    def cells(
        self,
        points: Float[Tensor, "P 3"],
        projection: Float[Tensor, "3 4"],
        depth: Float[Tensor, "D D"],
        on_background: bool,
    ) -> Int[Tensor, " P"]:
        """The latent cell (row * size + column) in which each point is visible; -1 for none (see ``sums``)."""
        x, y, z = (points @ projection[:, :3].T + projection[:, 3]).unbind(1)
        u, v = x / z.clamp_min(1e-6), y / z.clamp_min(1e-6)
        visible = (z > 1e-6) & (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
        u, v = u.clamp(0, 1 - 1e-6), v.clamp(0, 1 - 1e-6)
        rows, columns = depth.shape
        surface = depth[(v * rows).long(), (u * columns).long()]
        in_front = (surface > 0) & (z <= surface + OCCLUDED)
        visible &= (in_front | (surface == 0)) if on_background else in_front
        return torch.where(visible, (v * self.size).long() * self.size + (u * self.size).long(), -1)

    def points(self, posed: PosedBody) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "H 3"]]:
        """The points on the skin of a posed body, and those that hover above it."""
        if self._posed is not None and self._posed[0] is posed:
            return self._posed[1]
        corners = posed.vertices[self._faces]
        points = (self._barycentric[..., None] * corners).sum(1)
        few = corners[::HOVERING_EVERY]
        normals = torch.linalg.cross(few[:, 1] - few[:, 0], few[:, 2] - few[:, 0])
        hovering = points[::HOVERING_EVERY] + HOVERING * torch.nn.functional.normalize(normals, dim=1)
        self._posed = posed, (points, hovering)
        return points, hovering

    def _at(self, step: int) -> _Noise:
        """The noise at a step: between the noise of two times that are 1 / gamma steps apart."""
        time = step * self.config.gamma
        first = int(time)
        for kept in [kept for kept in self._times if kept not in (first, first + 1)]:
            del self._times[kept]
        noise = self._drawn(first)
        return noise if time == first else noise.towards(self._drawn(first + 1), math.pi / 2 * (time - first))

    def _drawn(self, time: int) -> _Noise:
        if time not in self._times:
            random = torch.Generator().manual_seed(derive_seed(self.seed, time, "surface noise"))
            points, hovering = len(self._faces), -(-len(self._faces) // HOVERING_EVERY)
            shapes = [(points, self.channels), (hovering, self.channels), (self.channels, self.size, self.size)]
            self._times[time] = _Noise(*(torch.randn(s, generator=random).to(self._device) for s in shapes))
        return self._times[time]


def _projection(camera: Cameras) -> Float[Tensor, "3 4"]:
    """The matrix from world points to (u z, v z, z), where u and v are fractions of the image."""
    K = camera.K[0].clone()
    K[0] /= camera.width
    K[1] /= camera.height
    return K @ camera.T_camera_world[0, :3]
