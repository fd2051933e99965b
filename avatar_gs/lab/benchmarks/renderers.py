"""Times rendering with gradients: our renderer (on a GPU gsplat's) compared with the dense reference."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.benchmarks.dense import render_dense
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Render

# A person made of capsules: both ends and the radius, in metres (world frame).
_MIDDLE = [
    ((0.0, 0.95, 0.0), (0.0, 1.40, 0.0), 0.15),
    ((0.0, 1.42, 0.0), (0.0, 1.50, 0.0), 0.06),
    ((0.0, 1.55, 0.0), (0.0, 1.65, 0.0), 0.10),
]
_LEFT = [
    ((0.20, 1.40, 0.0), (0.35, 1.15, 0.0), 0.055),
    ((0.35, 1.15, 0.0), (0.42, 0.90, 0.05), 0.045),
    ((0.10, 0.90, 0.0), (0.12, 0.50, 0.0), 0.085),
    ((0.12, 0.50, 0.0), (0.13, 0.08, 0.0), 0.06),
    ((0.13, 0.05, 0.0), (0.13, 0.05, 0.15), 0.045),
]
CAPSULES = [*_MIDDLE, *_LEFT, *[((-a[0], *a[1:]), (-b[0], *b[1:]), radius) for a, b, radius in _LEFT]]


def capsule_person(count: int, generator: torch.Generator, scale: tuple[float, float] = (0.01, 0.02)) -> Gaussians:
    """``count`` random splats with scales within ``scale`` (metres) on the surface of a person made of capsules."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    start, end = torch.tensor([c[0] for c in CAPSULES]), torch.tensor([c[1] for c in CAPSULES])
    radius, length = torch.tensor([c[2] for c in CAPSULES]), (end - start).norm(dim=1)
    which = torch.multinomial(radius * (length + 2 * radius), count, replacement=True, generator=generator)
    start, radius, length, axis = start[which], radius[which], length[which], ((end - start) / length[:, None])[which]

    across = torch.linalg.cross(axis, torch.tensor([1.0, 0.0, 0.0]).expand_as(axis))
    across = across / across.norm(dim=1, keepdim=True)
    third = torch.linalg.cross(axis, across)
    along = uniform(count) * (length + 2 * radius) - radius  # uniform along the axis is uniform on a sphere
    inside = along.clamp(min=0).minimum(length)
    ring = (radius**2 - (along - inside) ** 2).clamp(min=0).sqrt()[:, None]
    angle = uniform(count, 1) * 2 * math.pi
    return Gaussians(
        means=start + axis * along[:, None] + ring * (angle.cos() * across + angle.sin() * third),
        quats=torch.randn(count, 4, generator=generator),
        scales=scale[0] + (scale[1] - scale[0]) * uniform(count, 3),
        opacities=0.1 + 0.8 * uniform(count),
        colors=uniform(count, 3),
    )


def person_camera(width: int, height: int, azimuth: float = 0.3) -> Cameras:
    """A camera at chest height with the whole `capsule_person` in view; ``azimuth`` in radians."""
    focal = 1.2 * height
    distance = 1.75 * focal / (0.9 * height)
    c, s = math.cos(azimuth), math.sin(azimuth)
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[c, 0.0, -s], [0.0, -1.0, 0.0], [-s, 0.0, -c]])
    pose[:3, 3] = -pose[:3, :3] @ torch.tensor([s * distance, 0.87, c * distance])
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(pose[None], K[None], width, height)


@dataclass(frozen=True)
class Scene:
    """Splats, a camera, and the weights ``[1, H, W, 3], [1, H, W, 1], [1, H, W, 1]`` of a loss linear in colour, alpha
    and depth."""

    splats: Gaussians
    cameras: Cameras
    weights: tuple[Tensor, Tensor, Tensor]


def person_scene(count: int, side: int, seed: int = 0, device: str = "cpu") -> Scene:
    """A `capsule_person` of ``count`` splats in an image of ``side`` x ``side`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    person = capsule_person(count, generator)
    # the memory layout of a gradient of [B, 3, H, W]
    rgb, alpha, depth = (
        (torch.randn(1, channels, side, side, generator=generator) / side).to(device).permute(0, 2, 3, 1)
        for channels in (3, 1, 1)
    )
    splats = Gaussians(*[x.to(device) for x in vars(person).values()])
    return Scene(splats, person_camera(side, side).to(device), (rgb, alpha, depth))


@dataclass(frozen=True)
class _Timing:
    """Milliseconds of one forward and backward pass: wall times, and the CPU time of the whole process."""

    forward: float
    backward: float
    cpu: float


def _measure(render: Callable[..., Render], scene: Scene) -> _Timing:
    """Time one pass with gradients of all splat parameters."""

    def now() -> tuple[float, float]:
        if scene.splats.means.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    parameters = [x.clone().requires_grad_() for x in vars(scene.splats).values()]
    (wall0, cpu0) = now()
    result = render(Gaussians(*parameters), scene.cameras)
    (wall1, cpu1) = now()
    outputs = zip((result.rgb, result.alpha, result.depth), scene.weights, strict=True)
    loss = torch.stack([(output * weight).sum() for output, weight in outputs]).sum()
    (wall2, cpu2) = now()
    torch.autograd.grad(loss, parameters)
    (wall3, cpu3) = now()
    return _Timing(1e3 * (wall1 - wall0), 1e3 * (wall3 - wall2), 1e3 * (cpu1 - cpu0 + cpu3 - cpu2))


def time_renderers(
    config: BenchmarkConfig,
    seed: int = 0,
    device: str = "cpu",
    others: Mapping[str, Callable[..., Render]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one row of plain values for each size and renderer: ours, the dense reference if small enough, and others.

    Passes of the renderers of one size alternate, so that other load affects all alike. Times are milliseconds for RGB,
    alpha and depth, forward and backward: ``wall_min``, ``wall_median``, ``forward_min``, ``backward_min``, and
    ``cpu_min`` and ``cpu_median`` (CPU time of the process, which is independent of other load).

    Args:
        others: further renderers by name, functions of splats and cameras.
    """
    ours = "gsplat" if torch.device(device).type == "cuda" else "avatar_gs"
    for count, side in zip(config.splats, config.pixels, strict=True):
        scene = person_scene(count, side, seed, device)
        renderers: dict[str, Callable[..., Render]] = {ours: rasterize}
        if count * side * side <= config.dense_limit and device == "cpu":
            renderers["dense torch"] = render_dense
        renderers |= others or {}
        timings: dict[str, list[_Timing]] = {name: [] for name in renderers}
        for _ in range(config.repeats + 1):
            for name, render in renderers.items():
                timings[name].append(_measure(render, scene))
        for name, found in timings.items():
            found = found[1:]  # the first pass compiles
            totals = [t.forward + t.backward for t in found]
            yield {
                "splats": count,
                "pixels": side,
                "renderer": name,
                "threads": torch.get_num_threads(),
                "wall_min": min(totals),
                "wall_median": median(totals),
                "forward_min": min(t.forward for t in found),
                "backward_min": min(t.backward for t in found),
                "cpu_min": min(t.cpu for t in found),
                "cpu_median": median(t.cpu for t in found),
            }
