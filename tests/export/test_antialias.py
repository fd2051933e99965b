"""Splats widened to the resolution that they were optimised at."""

import pytest
import torch

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import a_pose
from avatar_gs.export.antialias import BLUR, footprints, widened
from avatar_gs.render.cameras import subject
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.render.rasterize import rasterize
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import surface_splats
from avatar_gs.types import Cameras, Framing, Gaussians

SIZE = 128


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(BodyConfig(path=str(FREE_BODY)))


def test_footprint_is_of_the_closest_framing_that_was_sampled(body: Body) -> None:
    posed, cameras = body.pose(a_pose()), CamerasConfig()
    feet, face = posed.vertices[:, 1].argmin(), posed.joints[15]
    points = torch.stack([posed.vertices[feet], face])
    lower, head = (
        subject(posed, part)[1] * (config.span_min + config.span_max) / 2 / SIZE
        for part, config in ((Framing.LOWER, cameras.lower), (Framing.HEAD, cameras.head))
    )
    torch.testing.assert_close(footprints(points, posed, cameras, SIZE), torch.tensor([lower, head]))
    cameras.lower, cameras.head = FramingConfig(0.0), FramingConfig(0.0)
    upper = subject(posed, Framing.UPPER)[1] * (cameras.upper.span_min + cameras.upper.span_max) / 2 / SIZE
    whole = subject(posed, Framing.BODY)[1] * (cameras.body.span_min + cameras.body.span_max) / 2 / SIZE
    torch.testing.assert_close(footprints(points, posed, cameras, SIZE), torch.tensor([whole, upper]))


def test_what_no_camera_showed_keeps_its_size(body: Body) -> None:
    posed, cameras = body.pose(a_pose()), CamerasConfig()
    above = posed.joints[15] + torch.tensor([0.0, 5.0, 0.0])
    assert footprints(above[None], posed, cameras, SIZE).tolist() == [0.0]


def test_widened_splat_looks_at_high_resolution_as_it_did_at_the_low_one() -> None:
    """A splat of variance s² at p metres a pixel shows s² + BLUR p²; so does the widened one from close by."""
    spread, metres_per_pixel, distance = 0.004, 0.01, 2.0

    def deviation(scale: float, pixels_per_metre: float) -> float:
        size = round(2 * pixels_per_metre * 0.3) // 2 * 2 + 1
        focal = pixels_per_metre * distance
        K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
        T = torch.eye(4)
        T[2, 3] = distance
        quats, opacities = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([0.05])
        splat = Gaussians(torch.zeros(1, 3), quats, torch.full((1, 3), scale), opacities, torch.ones(1, 3))
        alpha = rasterize(splat, Cameras(T[None], K[None], size, size)).alpha[0, ..., 0].double()
        places = (torch.arange(size) - size // 2) / pixels_per_metre
        return float(((alpha.sum(0) * places**2).sum() / alpha.sum()).sqrt())

    wide = (spread**2 + BLUR * metres_per_pixel**2) ** 0.5
    blurred = deviation(spread, 1 / metres_per_pixel)
    assert abs(deviation(wide, 1000.0) / blurred - 1) < 0.05
    assert deviation(spread, 1000.0) / blurred < 0.75


def test_only_sizes_change_and_no_splat_shrinks(body: Body) -> None:
    model = surface_splats(SplatsConfig(count=500), body.rest(), body.weights, torch.Generator().manual_seed(0))
    wide: GaussianModel = widened(model, body, CamerasConfig(), SIZE)
    assert bool((wide.scales() > model.scales()).all())
    for name, values in model.tensors().items():
        if name != "scales":
            torch.testing.assert_close(wide.tensors()[name], values, rtol=0, atol=0)
    grown = wide.scales().square() - model.scales().square()
    torch.testing.assert_close(grown[:, 0], grown[:, 2], rtol=1e-3, atol=1e-9)
