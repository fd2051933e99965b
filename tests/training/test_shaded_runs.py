"""Runs with light, a learned background and the losses of surfaces: reproducible, resumable, and off by default."""

from dataclasses import replace

import pytest
import torch

from avatar_gs.body.pose import a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.core.seeding import generator
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.shading import Lighting, Shade
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import surface_splats
from avatar_gs.training.config import (
    Background,
    EnvironmentConfig,
    GeometryConfig,
    OptimizeConfig,
    PoseMode,
    TrainingConfig,
)
from avatar_gs.training.loop import optimize
from avatar_gs.training.losses import emptiness, geometry_losses, orientation_ramp
from avatar_gs.training.rendering import outward_normals, render_scene
from avatar_gs.training.scene import Scenes
from tests.training.conftest import ColorPrior, color_prompts, small_settings

LIT = ShadingConfig(probability=0.7, textureless=0.5, warmup=0.0)


def scenes(body, **config):
    return Scenes(body, TrainingConfig(seed=1, optimize=OptimizeConfig(steps=40, batch=2, **config)), 32)


def avatar(body, count=800):
    return surface_splats(SplatsConfig(count=count), body.rest(), body.weights, generator(0, 0, "splats"))


def dreamfusion_settings(**optimize):
    return small_settings(
        shading=LIT,
        background=Background.learned,
        environment=EnvironmentConfig(learning_rate=0.02, random_share=0.3, width=8, octaves=1),
        geometry=GeometryConfig(orientation=0.5, transmittance=0.01),
        poses=PoseMode.random,
        **optimize,
    )


def same_bytes(first, second):
    return all(torch.equal(first.params[name], second.params[name]) for name in first.params)


def test_scenes_are_lit_only_if_configured(body):
    plain, lit = scenes(body), scenes(body, shading=LIT, background=Background.learned)
    for step in range(3):
        first, second = plain.make(step), lit.make(step)
        assert first.lighting is None and not first.environment
        assert torch.equal(first.views.cameras.T_camera_world, second.views.cameras.T_camera_world)
        assert torch.equal(first.backgrounds, second.backgrounds) and torch.equal(first.pose_maps, second.pose_maps)
    drawn = [lit.make(step) for step in range(24)]
    assert {None if s.lighting is None else s.lighting.shade for s in drawn} == {None, *Shade} - {Shade.ALBEDO}
    assert {s.environment for s in drawn} == {True, False}
    again, lighting = lit.make(1), drawn[1].lighting
    assert lighting is not None and again.lighting is not None
    assert torch.equal(lighting.lights, again.lighting.lights)


def test_normals_point_out_of_the_body_in_every_pose(body):
    model = avatar(body)
    with torch.no_grad():
        model.params["quats"][::2] = model.params["quats"][::2][:, [1, 0, 3, 2]] * torch.tensor([-1.0, 1, 1, -1])
        for pose in (a_pose(),):
            gaussians = model.pose(body.pose(pose))
            normals = outward_normals(model, gaussians)
            torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(model)))
            at_rest = outward_normals(model, model.rest())
            assert ((at_rest * model.params["normals"]).sum(-1) >= 0).all()
            outside = gaussians.means + 0.01 * normals
            centre = gaussians.means.mean(0)
            farther = (outside - centre).norm(dim=-1) > (gaussians.means - centre).norm(dim=-1)
            assert farther.float().mean() > 0.7


def test_a_textureless_render_has_gradients_on_shapes_and_not_on_colours(body):
    model, scene = avatar(body), scenes(body).make(0)
    lighting = Lighting(Shade.TEXTURELESS, torch.tensor([[1.0, 2, 3], [-1, 2, 3]]), 0.1, 0.9)
    render_scene(model, replace(scene, lighting=lighting)).rgb.sum().backward()
    gradients = {name: p.grad for name, p in model.trainable().items() if p.grad is not None}
    assert gradients.keys() == model.trainable().keys(), "a missing gradient is a bad step"
    assert not gradients["sh0"].any() and gradients["quats"].any() and gradients["means"].any()


def test_emptiness_in_closed_form():
    alpha = torch.full((2, 4, 4, 1), 0.3)
    alpha[1] = 0.05
    alpha.requires_grad_(True)
    loss = emptiness(alpha, 0.88)
    torch.testing.assert_close(loss, torch.tensor(-(0.7 + 0.88) / 2))
    loss.backward()
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad[0], torch.full((4, 4, 1), 1 / 32))
    assert not alpha.grad[1].any(), "empty enough"


def test_the_orientation_loss_ramps_up():
    assert [orientation_ramp(p) for p in (0.0, 1 / 3, 1.0)] == [0.01, 1.0, 1.0]
    torch.testing.assert_close(orientation_ramp(1 / 6), 0.505)


def test_only_weighted_losses_are_computed(body):
    model, scene = avatar(body, 200), scenes(body).make(0)
    alpha = render_scene(model, scene).alpha
    for config, names in (
        (GeometryConfig(), set()),
        (GeometryConfig(transmittance=1.0), {"transmittance"}),
        (GeometryConfig(orientation=1.0), {"orientation"}),
    ):
        losses = geometry_losses(config, model, scene, alpha, progress=1.0, scale=1)
        assert set(losses) == names and all(loss.isfinite() for loss in losses.values())
    late, early = (geometry_losses(config, model, scene, alpha, progress=p, scale=1)["orientation"] for p in (1.0, 0.0))
    torch.testing.assert_close(early, 0.01 * late)


def test_the_orientation_loss_turns_visible_splats_towards_the_camera(body):
    model, scene = avatar(body, 500), scenes(body).make(2)
    with torch.no_grad():
        model.params["quats"] += 0.6 * torch.randn(500, 4, generator=generator(0, 0, "turn"))

    def loss():
        config = GeometryConfig(orientation=1.0)
        alpha = torch.zeros(2, 32, 32, 1)
        return geometry_losses(config, model, scene, alpha, progress=1.0, scale=1)["orientation"]

    optimizer = torch.optim.Adam([model.params["quats"]], lr=0.02)
    first = float(loss())
    for _ in range(15):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < 0.7 * first


def test_settings_of_disabled_features_change_nothing(body):
    """Settings of the light, the background and the losses change no byte while none of them is switched on."""
    plain = optimize(small_settings().training, body, ColorPrior(), color_prompts())
    settings = small_settings(
        shading=replace(LIT, probability=0.0, ambient=0.5),
        environment=EnvironmentConfig(random_share=0.0),
        geometry=GeometryConfig(transmittance_target=0.1),
    )
    assert same_bytes(plain.model, optimize(settings.training, body, ColorPrior(), color_prompts()).model)
    lit = optimize(small_settings(shading=LIT).training, body, ColorPrior(), color_prompts())
    assert len(lit.model) != len(plain.model) or not same_bytes(plain.model, lit.model)
    assert lit.metrics["skipped_steps"] == 0


def test_a_killed_and_resumed_run_ends_with_the_same_bytes(body, tmp_path):
    settings, skies = dreamfusion_settings(checkpoint_every=5), []

    class Killed(Exception):
        pass

    def kill(state, report):
        if state.step == 7:  # two steps after the last checkpoint
            raise Killed

    def look(state, report):
        skies.append({name: value.clone() for name, value in state.background.state_dict().items()})

    config = settings.training
    whole = optimize(config, body, ColorPrior(), color_prompts(), RunFolder(tmp_path / "whole"), on_step=look)
    with pytest.raises(Killed):
        optimize(config, body, ColorPrior(), color_prompts(), RunFolder(tmp_path / "halves"), on_step=kill)
    torch.manual_seed(123)  # nothing may depend on torch's global generator
    resumed = optimize(config, body, ColorPrior(), color_prompts(), RunFolder(tmp_path / "halves"), on_step=look)
    assert whole.metrics["skipped_steps"] == 0 and same_bytes(whole.model, resumed.model)
    first, last = skies[11], skies[-1]
    assert len(skies) == 12 + 7 and all(torch.equal(first[name], last[name]) for name in first)
    assert not torch.equal(skies[0]["2.weight"], first["2.weight"]), "it has learned"


def test_a_run_without_a_learned_background_does_not_resume_with_one(body, tmp_path):
    run = RunFolder(tmp_path)
    optimize(small_settings(steps=2).training, body, ColorPrior(), color_prompts(), run)
    with pytest.raises(UserError, match=r"optimize\.background=random, this one learned"):
        optimize(
            small_settings(steps=2, background=Background.learned).training, body, ColorPrior(), color_prompts(), run
        )


@pytest.mark.parametrize(
    "wrong", [{"transmittance": -1.0}, {"orientation": float("nan")}, {"transmittance_target": 0.0}]
)
def test_invalid_losses_are_refused_in_one_line(wrong):
    with pytest.raises(UserError, match=rf"^optimize\.geometry\.{next(iter(wrong))}=[^\n]*$"):
        GeometryConfig(**wrong)
