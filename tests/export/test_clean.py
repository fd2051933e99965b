"""Cleaning of splats before they are written."""

import logging

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.export.config import ExportConfig
from avatar_gs.export.writer import clean_splats
from avatar_gs.types import Gaussians


def numbered(count: int) -> Gaussians:
    """Splats that their x tells apart."""
    return Gaussians(
        means=torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 3),
        quats=torch.tensor([2.0, 0, 0, 0]).repeat(count, 1),
        scales=torch.full((count, 3), 0.01),
        opacities=torch.full((count,), 0.5),
        colors=torch.full((count, 3), 0.5),
    )


def test_invisible_splats_go_and_the_order_of_the_others_stays() -> None:
    gaussians = numbered(6)
    gaussians.opacities[:] = torch.tensor([0.9, 0.004, 0.005, 0.0, 1.0, 0.1])
    assert clean_splats(gaussians, ExportConfig()).means[:, 0].tolist() == [0, 2, 4, 5]
    assert clean_splats(gaussians, ExportConfig(min_opacity=0.0)).means[:, 0].tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "colors"])
def test_splats_that_are_not_finite_go_and_are_reported(field: str, caplog: pytest.LogCaptureFixture) -> None:
    gaussians = numbered(4)
    getattr(gaussians, field)[1] = float("nan")
    getattr(gaussians, field)[2] = float("inf")
    with caplog.at_level(logging.WARNING, logger="avatar_gs"):
        assert clean_splats(gaussians, ExportConfig()).means[:, 0].tolist() == [0, 3]
    assert "2 of 4 splats are not finite" in caplog.text


def test_scales_colours_and_rotations_are_brought_into_range() -> None:
    gaussians = numbered(2)
    gaussians.scales[0] = torch.tensor([0.0, 1e9, 0.02])
    gaussians.colors[0] = torch.tensor([-0.2, 1.7, 0.3])
    cleaned = clean_splats(gaussians, ExportConfig(min_scale=0.001, max_scale=0.1))
    torch.testing.assert_close(cleaned.scales[0], torch.tensor([0.001, 0.1, 0.02]))
    torch.testing.assert_close(cleaned.colors[0], torch.tensor([0.0, 1.0, 0.3]))
    torch.testing.assert_close(cleaned.quats.norm(dim=-1), torch.ones(2))
    assert gaussians.scales[0, 0] == 0  # the caller's values are not touched


def test_no_splat_left_is_an_error_with_its_reason() -> None:
    gaussians = numbered(3)
    gaussians.opacities[:] = 0.001
    with pytest.raises(UserError, match=r"none of the 3 splats .* export.min_opacity=0.005"):
        clean_splats(gaussians, ExportConfig())
