"""gsplat on a GPU draws what our CPU renderer draws."""

import pytest
import torch

from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Gaussians
from tests.render.test_rasterize import PARAMETERS, ROUNDING, SCENES, in_double, loss_of, render_dense, with_gradients

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat draws on CUDA, and torch finds none here")


@pytest.mark.parametrize("scene", SCENES)
def test_pictures_and_gradients_are_the_cpu_renderers(scene: str) -> None:
    """To the tolerances that the CPU renderer keeps to the dense reference, which also says where a threshold lies
    within rounding."""
    splats, cameras, background = SCENES[scene]
    behind = torch.zeros(len(cameras), 3) if background is None else background
    dense = render_dense(Gaussians(*[x.double() for x in vars(splats).values()]), in_double(cameras), behind.double())
    sure, slack = ~dense.info["fragile"][..., None], ROUNDING.get(scene, 1.0)
    weights = torch.randn(*dense.rgb.shape[:3], 5, generator=torch.Generator().manual_seed(0)) * sure
    found = {}
    for device in ("cpu", "cuda"):
        inputs = with_gradients(Gaussians(*[x.to(device) for x in vars(splats).values()]), torch.float32)
        render = rasterize(inputs, cameras.to(device), behind.to(device))
        loss_of(render, weights.to(device)).backward()
        gradients = [getattr(inputs, name).grad.cpu() for name in PARAMETERS]
        found[device] = [part.detach().cpu() for part in (render.rgb, render.alpha, render.depth)], gradients
    (ours, our_gradients), (theirs, their_gradients) = found["cpu"], found["cuda"]
    for name, atol, one, other in zip(("rgb", "alpha", "depth"), (3e-6, 3e-6, 2e-5), theirs, ours, strict=True):
        torch.testing.assert_close(one * sure, other * sure, atol=2 * atol * slack, rtol=0, msg=name)
    for name, one, other in zip(PARAMETERS, their_gradients, our_gradients, strict=True):
        error = (one - other).norm() / other.norm().clamp(min=1e-12)
        assert error < 2e-5 * slack, (name, float(error))
