"""gsplat on a GPU draws what our CPU renderer draws, as exactly as float32 allows; the comparison finds real faults."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Render
from tests.render.agreement import Agreement, Draw, Drawn, Scene, compare, drawn_by
from tests.render.test_rasterize import SCENES

TILE = 16
SOME = ("square", "several cameras", "needles", "one splat")


def broken(scene: str, draw: Draw) -> dict[str, Agreement]:
    return {row.quantity: row for row in compare(scene, draw) if not row.holds}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat draws on CUDA, and torch finds none here")
@pytest.mark.parametrize("scene", SCENES)
def test_gsplat_is_as_near_to_float64_as_float32_allows(scene: str) -> None:
    assert not broken(scene, drawn_by(rasterize, "cuda"))


def in_another_order(scene: Scene) -> Drawn:
    """The CPU renderer with gradients added up tile by tile in float32, in a random order, as gsplat's atomics do."""
    rows, columns = (-(-size // TILE) for size in (scene.cameras.height, scene.cameras.width))
    tiles = [(y, x) for y in range(rows) for x in range(columns)]
    order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(1)).tolist()
    whole = drawn_by(rasterize)(scene)
    total = {name: torch.zeros_like(gradient) for name, gradient in whole.gradients.items()}
    for y, x in (tiles[index] for index in order):
        weights = torch.zeros_like(scene.weights)
        here = (slice(None), slice(y * TILE, (y + 1) * TILE), slice(x * TILE, (x + 1) * TILE))
        weights[here] = scene.weights[here]
        for name, gradient in drawn_by(rasterize)(replace(scene, weights=weights)).gradients.items():
            total[name] += gradient
    return Drawn(whole.images, total)


@pytest.mark.parametrize("scene", SCENES)
def test_another_order_of_summation_is_no_disagreement(scene: str) -> None:
    assert not broken(scene, in_another_order)


def mirrored(splats: Gaussians, cameras: Cameras, background: Tensor) -> Render:
    """Every rotation inverted."""
    return rasterize(replace(splats, quats=splats.quats * torch.tensor([1.0, -1, -1, -1])), cameras, background)


def half_a_pixel_aside(splats: Gaussians, cameras: Cameras, background: Tensor) -> Render:
    """Pixel centres at whole numbers."""
    aside = torch.zeros(3, 3)
    aside[:2, 2] = 0.5
    return rasterize(splats, replace(cameras, K=cameras.K + aside), background)


def one_gradient_one_per_cent_larger(name: str) -> Draw:
    def draw(scene: Scene) -> Drawn:
        right = drawn_by(rasterize)(scene)
        return replace(right, gradients=right.gradients | {name: 1.01 * right.gradients[name]})

    return draw


@pytest.mark.parametrize("scene", SOME)
def test_real_disagreements_are_found(scene: str) -> None:
    assert {"means", "quats", "scales"} <= set(broken(scene, drawn_by(mirrored)))
    assert {"rgb", "alpha", "means", "means2d"} <= set(broken(scene, drawn_by(half_a_pixel_aside)))
    for name in ("means", "quats", "scales", "opacities", "colors", "means2d"):
        assert set(broken(scene, one_gradient_one_per_cent_larger(name))) == {name}
