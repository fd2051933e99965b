"""The checks before the times, with stand-ins for OpenSplat itself, which is not needed here."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avatar_gs.lab.benchmarks.renderers import person_scene
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Render
from tests.benchmarks.compare_with_opensplat import disagreement, projection_matrix, ranks, table_row


def doubled_gradient(splats: Gaussians) -> Gaussians:
    return replace(splats, colors=2 * splats.colors - splats.colors.detach())


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        (lambda splats: splats, False),
        (lambda splats: replace(splats, means=splats.means + 0.005), True),
        (lambda splats: replace(splats, colors=splats.colors * torch.nan), True),
        (doubled_gradient, True),
    ],
    ids=["the same", "moved by half a pixel", "not a number", "another gradient"],
)
def test_renderers_with_different_images_or_gradients_are_not_compared(
    change: Callable[[Gaussians], Gaussians], apart: bool
) -> None:
    def theirs(splats: Gaussians, cameras: Cameras, sort_by: Tensor) -> Render:
        assert sort_by.sort().values.tolist() == list(range(len(splats)))
        return rasterize(change(splats), cameras)

    assert disagreement(theirs, person_scene(300, 48))[1] == apart


def test_the_projection_matrix_puts_points_where_our_cameras_do() -> None:
    scene = person_scene(40, 64)
    off_centre = torch.tensor([[4.0, 0.0, 3.0], [0.0, -6.0, -5.0], [0.0, 0.0, 0.0]])
    cameras = replace(scene.cameras, K=scene.cameras.K + off_centre, width=80)
    points = torch.cat([scene.splats.means, torch.ones(40, 1)], dim=1) @ cameras.T_camera_world[0].T
    clip = points @ projection_matrix(cameras).T
    pixels = (clip[:, :2] / clip[:, 3:] + 1) / 2 * torch.tensor([80, 64])
    ours = points[:, :3] @ cameras.K[0].T
    torch.testing.assert_close(pixels, ours[:, :2] / ours[:, 2:])
    assert ((clip[:, 2] / clip[:, 3]).argsort() == points[:, 2].argsort()).all()


def test_ranks_break_ties_by_index_and_the_table_divides_their_times_by_ours() -> None:
    assert ranks(torch.tensor([2.0, 1.0, 2.0, 0.5])).tolist() == [2, 1, 3, 0]
    ours = {"splats": 2000, "pixels": 64, "wall_min": 2.0, "wall_median": 4.0, "cpu_min": 1.0, "cpu_median": 5.0}
    theirs = ours | {"wall_min": 10.0, "wall_median": 12.0, "cpu_min": 8.0, "cpu_median": 10.0}
    expected = "| 2,000, 64² | 2.0 / 4.0 | 10.0 / 12.0 | 5.0 / 3.0 | 1.0 / 5.0 | 8.0 / 10.0 | 8.0 / 2.0 |"
    assert table_row(ours, theirs) == expected
