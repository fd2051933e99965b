"""Splats follow the body's surface where poses change its shape before skinning."""

from dataclasses import replace

import pytest
import torch

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import load_body
from avatar_gs.body.pose import a_pose, random_pose, zero_pose
from avatar_gs.core.runs import RunFolder
from avatar_gs.splats.binding import BoundModel
from avatar_gs.splats.config import DensityConfig, LearningRates, SplatsConfig
from avatar_gs.splats.density import DistillationStrategy
from avatar_gs.splats.model import BOUND, TRAINABLE, GaussianModel
from avatar_gs.splats.optim import build_optimizers
from avatar_gs.splats.posing import Triangles, blend_transforms, closest_barycentric, skin
from avatar_gs.splats.surface import RestSurface, random_barycentric, surface_splats
from avatar_gs.stages.export import standing
from avatar_gs.training.config import PoseMode
from avatar_gs.training.loop import optimize
from avatar_gs.training.state import load_avatar
from tests.splats.test_density import screen_info
from tests.training.conftest import ColorPrior, color_prompts, small_settings


@pytest.fixture(scope="module")
def free():
    return load_body(BodyConfig(path=str(FREE_BODY)))


@pytest.fixture(scope="module")
def body(free):
    """The free body with pose correctives of centimetres, as SMPL-X has."""
    random = torch.Generator().manual_seed(0)
    return replace(free, pose_directions=0.002 * torch.randn(486, free.template.numel(), generator=random))


def random_poses():
    return [random_pose(torch.Generator().manual_seed(seed)) for seed in range(3)]


def splats_at(points, anchors, skinning):
    """A model with its means at ``points``."""
    count = len(points)
    tensors = {
        "means": points,
        "quats": torch.randn(count, 4, generator=torch.Generator().manual_seed(1)),
        "scales": torch.full((count, 3), -5.0),
        "opacities": torch.zeros(count),
        "sh0": torch.zeros(count, 1, 3),
        "skinning": skinning,
        "anchors": anchors,
        "normals": torch.zeros(count, 3),
    }
    return GaussianModel(tensors)


@pytest.fixture(scope="module")
def found(body):
    """Which vertices find themselves on the surface."""
    rest = body.rest()
    error = (
        Triangles(rest.vertices, rest.faces).attach(rest.vertices).interpolate(rest.vertices) - rest.vertices
    ).norm(dim=1)
    assert (error < 1e-6).double().mean() > 0.999 and error.max() < 2e-4
    return error < 1e-6


def test_splats_on_vertices_follow_them(body, found):
    rest = body.rest().vertices
    model = splats_at(rest, rest, body.weights)
    for pose in random_poses():
        posed = body.pose(pose)
        assert (posed.vertices - replace(body, pose_directions=None).pose(pose).vertices).norm(dim=1).median() > 0.003
        torch.testing.assert_close(model.pose(posed).means.detach()[found], posed.vertices[found], atol=1e-5, rtol=0)


def test_splats_in_triangles_follow_the_surface(body):
    # of triangles that move with one joint, linear blend skinning carries every point exactly
    rigid = (body.weights[body.faces].amax(2) > 1 - 1e-6).all(1)
    one_joint = body.weights[body.faces].argmax(2)
    faces = body.faces[rigid & (one_joint == one_joint[:, :1]).all(1)]
    assert len(faces) > 1000
    inside = random_barycentric(len(faces), torch.Generator().manual_seed(2))[..., None]
    rest = (inside * body.rest().vertices[faces]).sum(1)
    model = splats_at(rest, rest, (inside * body.weights[faces]).sum(1))
    attached = Triangles(body.rest().vertices, body.faces).attach(rest)
    own = (attached.vertices.sort(1).values == faces.sort(1).values).all(1)
    assert own.float().mean() > 0.99
    for pose in random_poses():
        posed = body.pose(pose)
        surface = (inside * posed.vertices[faces]).sum(1)
        torch.testing.assert_close(model.pose(posed).means.detach()[own], surface[own], atol=1e-5, rtol=0)


def test_splats_above_the_surface_keep_their_offset(body, found):
    rest, pose = body.rest().vertices, random_poses()[0]
    above = torch.tensor([0.01, 0.02, -0.01]).expand_as(rest)
    posed = body.pose(pose)
    means = splats_at(rest + above, rest, body.weights).pose(posed).means.detach()
    carried = (blend_transforms(body.weights, posed.T_posed_rest)[:, :3, :3] @ above[..., None])[..., 0]
    torch.testing.assert_close(means[found], (posed.vertices + carried)[found], atol=1e-5, rtol=0)


def test_an_exported_avatar_stands_on_the_corrected_surface(body, found):
    rest = body.rest().vertices
    gaussians, posed = standing(splats_at(rest, rest, body.weights), body)
    torch.testing.assert_close(gaussians.means[found], posed.vertices[found], atol=1e-5, rtol=0)


def test_a_finished_avatar_stands_as_before_with_correctives(body):
    rest, nearly = body.rest().vertices, a_pose()
    nearly.axis_angles[16, 1] = 1e-6
    model = splats_at(rest + 0.01, rest, body.weights)
    bound = BoundModel(model, body.rest(), body.pose(a_pose()), body.weights)
    before = model.pose(body.pose(a_pose()))
    assert torch.equal(bound.pose(body.pose(a_pose())).means, before.means)
    near = bound.pose(body.pose(nearly))
    torch.testing.assert_close(near.means, before.means, atol=2e-5, rtol=0)
    assert ((near.quats * before.quats).sum(1).abs() > 1 - 1e-5).all()


def test_nothing_changes_without_correctives_or_in_the_rest_pose(free, body):
    model = surface_splats(small_settings().splats, free.rest(), free.weights, torch.Generator().manual_seed(0))
    p, posed = model.params, free.pose(a_pose())
    means, quats = skin(p["means"], p["quats"], p["skinning"], posed.T_posed_rest)
    assert posed.correctives is None
    assert torch.equal(model.pose(posed).means, means) and torch.equal(model.pose(posed).quats, quats)
    rest = body.pose(zero_pose())
    assert rest.correctives is not None and not rest.correctives.offsets.any()
    means, _ = skin(p["means"], p["quats"], p["skinning"], rest.T_posed_rest)
    assert torch.equal(model.pose(rest).means, means)


def test_correctives_leave_gradients_as_they_are(body):
    model = surface_splats(small_settings().splats, body.rest(), body.weights, torch.Generator().manual_seed(0))
    posed, gradients = body.pose(random_poses()[0]), []
    for given in (posed, replace(posed, correctives=None)):
        gradients.append(torch.autograd.grad(model.pose(given).means.sum(), model.params["means"])[0])
    assert torch.equal(*gradients)


def test_attachments_follow_changes_of_anchors_and_splats(body):
    """After the surface is refreshed and splats have come and gone, a pose is that of a model made of the tensors."""
    model = surface_splats(small_settings().splats, body.rest(), body.weights, torch.Generator().manual_seed(0))
    posed, surface = body.pose(random_poses()[1]), RestSurface(body.rest(), 2000)

    def same_as_a_new_model():
        return torch.equal(model.pose(posed).means, GaussianModel(model.tensors()).pose(posed).means)

    assert same_as_a_new_model()
    with torch.no_grad():
        model.params["means"] += 0.05
    surface.refresh(model)
    assert same_as_a_new_model()
    config = DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=1)
    strategy, optimizers = DistillationStrategy(config, 10, model), build_optimizers(model, LearningRates())
    strategy.after_step(model, optimizers, 0, screen_info(torch.rand(len(model), 2)), 0)
    assert len(model) != small_settings().splats.count and same_as_a_new_model()


def test_a_resumed_run_on_a_body_with_correctives_ends_with_the_same_bytes(body, tmp_path):
    class Killed(Exception):
        pass

    def kill(state, report):
        if state.step == 7:
            raise Killed

    settings = small_settings(checkpoint_every=5, poses=PoseMode.random)
    arguments = settings.training, body, ColorPrior(), color_prompts()
    whole = optimize(*arguments, RunFolder(tmp_path / "whole"))
    with pytest.raises(Killed):
        optimize(*arguments, RunFolder(tmp_path / "halves"), on_step=kill)
    resumed = optimize(*arguments, RunFolder(tmp_path / "halves"))
    assert all(torch.equal(whole.model.params[name], resumed.model.params[name]) for name in whole.model.params)
    without = optimize(settings.training, replace(body, pose_directions=None), ColorPrior(), color_prompts())
    assert len(without.model) != len(whole.model) or not torch.equal(
        without.model.params["means"], whole.model.params["means"]
    )
    loaded = load_avatar(RunFolder(tmp_path / "whole").avatar_checkpoint, SplatsConfig())[0]
    assert set(loaded.params) == set(TRAINABLE | BOUND), "the checkpoint's layout stays"
    posed = body.pose(a_pose())
    assert torch.equal(loaded.pose(posed).means, whole.model.pose(posed).means)


def test_the_nearest_point_of_a_triangle_is_the_nearest_of_all():
    random = torch.Generator().manual_seed(3)
    corners = torch.randn(500, 3, 3, generator=random, dtype=torch.float64)
    points = 2 * torch.randn(500, 3, generator=random, dtype=torch.float64)
    found = closest_barycentric(points, corners)
    torch.testing.assert_close(found.sum(-1), torch.ones(500, dtype=torch.float64))
    assert (found >= 0).all()
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    u, v = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([1 - u - v, u, v], -1)[u + v <= 1 + 1e-9]
    distance = ((found[..., None] * corners).sum(1) - points).norm(dim=-1)
    tried = (torch.einsum("gk,nkd->ngd", grid, corners) - points[:, None]).norm(dim=-1).amin(1)
    assert (distance <= tried + 1e-9).all() and (distance > tried - 0.1).all()
    touched = (found > 0).sum(1)
    assert {1, 2, 3} == set(touched.tolist()), "corners, edges and insides"


def test_points_of_a_surface_find_themselves(free):
    rest = free.rest()
    inside = random_barycentric(len(rest.faces), torch.Generator().manual_seed(4))[..., None]
    points = (inside * rest.vertices[rest.faces]).sum(1)
    attached = Triangles(rest.vertices, rest.faces).attach(points)
    error = (attached.interpolate(rest.vertices) - points).norm(dim=1)
    assert (error < 1e-6).double().mean() > 0.998 and error.max() < 2e-3
    torch.testing.assert_close(attached.barycentric.sum(-1), torch.ones(len(points)))
