"""The projection and its gradient against gsplat's own torch implementation, in float64."""

import pytest
import torch

from avatar_gs.lab.benchmarks.renderers import capsule_person, person_camera
from avatar_gs.render.cpu.projection import View, pack_cameras
from avatar_gs.render.cpu.renderer import _Project

gsplat = pytest.importorskip("gsplat.cuda._torch_impl")


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -1.2)], ids=["whole person", "close and outside the image"])
def test_projection_is_gsplats(shift: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(3)
    person, camera = capsule_person(2000, generator), person_camera(256, 200)
    pose = camera.T_camera_world.clone()
    pose[0, 0, 3] += shift[0]
    pose[0, 2, 3] += shift[1]
    names = ("means", "quats", "scales")
    ours = [getattr(person, name).clone().requires_grad_() for name in names]
    theirs = [getattr(person, name).double().requires_grad_() for name in names]
    radii, means2d, depths, conics = _Project.apply(  # pyright: ignore[reportGeneralTypeIssues]
        *ours, person.opacities, View(pack_cameras(pose.numpy(), camera.K.numpy()), 256, 200, 0.01, 1e10)
    )
    covariances, _ = gsplat._quat_scale_to_covar_preci(theirs[1], theirs[2], True, False)
    expected = gsplat._fully_fused_projection(theirs[0], covariances, pose.double(), camera.K.double(), 256, 200)

    visible = (radii > 0).all(dim=-1)
    # gsplat's torch code takes three standard deviations and a bit; by opacity, ours may be smaller
    assert visible.sum() > 300 and (radii[visible] <= expected[0][visible]).all()
    found, right = (means2d, depths, conics), expected[1:4]
    for mine, reference in zip(found, right, strict=True):
        torch.testing.assert_close(mine[visible].double(), reference[visible], rtol=2e-6, atol=1e-5)
    weights = [torch.randn(x.shape, generator=generator) * visible.view(1, -1, *[1] * (x.dim() - 2)) for x in found]
    sum((x * w).sum() for x, w in zip(found, weights, strict=True)).backward()  # pyright: ignore
    sum((x * w).sum() for x, w in zip(right, weights, strict=True)).backward()  # pyright: ignore
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine.grad - reference.grad).norm() < 2e-6 * reference.grad.norm()
