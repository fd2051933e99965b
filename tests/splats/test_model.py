"""The model's layout is gsplat's, its activations invert, and every trainable parameter has a true gradient."""

from dataclasses import replace

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import BOUND, TRAINABLE, GaussianModel, rgb_to_sh
from avatar_gs.splats.surface import surface_splats
from avatar_gs.types import NUM_JOINTS
from tests.splats.conftest import rotation_about_z


@pytest.fixture
def model(tube, tube_weights):
    return surface_splats(SplatsConfig(count=60), tube, tube_weights, torch.Generator().manual_seed(0))


def test_layout_is_gsplats(model):
    assert list(model.params) == [*TRAINABLE, *BOUND]
    assert model.params["sh0"].shape == (60, 1, 3) and model.params["opacities"].shape == (60,)
    assert [name for name, value in model.params.items() if value.requires_grad] == list(TRAINABLE)


def test_colours_and_spherical_harmonics_are_inverse(model):
    rgb = torch.rand(60, 3)
    model.params["sh0"].data = rgb_to_sh(rgb)[:, None]
    torch.testing.assert_close(model.colors().detach(), rgb)


def test_tensors_rebuild_the_same_model(model):
    copy = GaussianModel(model.tensors())
    assert all(torch.equal(copy.params[name], model.params[name]) for name in model.params)
    copy.params["means"].data += 1
    assert not torch.equal(copy.params["means"], model.params["means"])


def test_tensors_of_other_shapes_are_refused(model):
    tensors = model.tensors()
    del tensors["skinning"]
    with pytest.raises(UserError, match="skinning"):
        GaussianModel(tensors)


def test_the_identity_pose_is_the_rest_pose(model, tube):
    rest, posed = model.rest(), model.pose(tube)
    for name in ("means", "scales", "opacities", "colors"):
        torch.testing.assert_close(getattr(rest, name), getattr(posed, name))
    alignment = (rest.quats * posed.quats).sum(-1).abs()
    torch.testing.assert_close(alignment, torch.ones_like(alignment))


def test_gradients_of_a_posed_model_equal_finite_differences(tube, tube_weights):
    model = surface_splats(SplatsConfig(count=10), tube, tube_weights, torch.Generator().manual_seed(0))
    double = GaussianModel({name: value.double() for name, value in model.tensors().items()})
    T = torch.eye(4, dtype=torch.float64).repeat(NUM_JOINTS, 1, 1)
    T[1] = rotation_about_z(0.8, torch.float64)
    bent = replace(tube, T_posed_rest=T)
    parameters = list(double.trainable())

    def posed(*values):
        # plain tensors in place of parameters, so that they may depend on the checked inputs
        double.params = dict(double.params) | dict(zip(parameters, values, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
        gaussians = double.pose(bent)
        return gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors

    inputs = [double.params[name].detach().clone().requires_grad_() for name in parameters]
    assert torch.autograd.gradcheck(posed, inputs, eps=1e-6, atol=1e-6)


def test_constrain_clamps_values_to_their_range(model):
    with torch.no_grad():
        model.params["sh0"].fill_(9.0)
        model.params["scales"][:30] = -20.0
        model.params["scales"][30:] = 5.0
        model.params["quats"].mul_(7.0)
    model.constrain()
    torch.testing.assert_close(model.colors().detach(), torch.ones(60, 3))
    torch.testing.assert_close(model.scales().detach().aminmax(), (torch.tensor(0.001), torch.tensor(0.05)))
    torch.testing.assert_close(model.params["quats"].detach().norm(dim=-1), torch.ones(60))
