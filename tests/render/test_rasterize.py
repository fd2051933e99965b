"""Our CPU renderer against the dense float64 reference, and what gsplat's strategies and callers need of it."""

from dataclasses import replace

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avatar_gs.geometry import look_at
from avatar_gs.lab.benchmarks.dense import render_dense
from avatar_gs.lab.benchmarks.renderers import capsule_person, person_camera
from avatar_gs.render.rasterize import rasterize, require_renderer
from avatar_gs.types import Cameras, Gaussians, Render

PARAMETERS = ("means", "quats", "scales", "opacities", "colors")
GREY = torch.tensor([[0.2, 0.5, 0.8]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def person(count: int = 300, scale: tuple[float, float] = (0.02, 0.06)) -> Gaussians:
    return capsule_person(count, generator(1), scale)


def several_cameras(width: int, height: int, azimuths: list[float]) -> Cameras:
    cameras = [person_camera(width, height, azimuth) for azimuth in azimuths]
    return Cameras(
        torch.cat([c.T_camera_world for c in cameras]), torch.cat([c.K for c in cameras]), width, height
    )  # fmt: skip


def camera_at(eye: list[float], target: list[float], width: int, height: int) -> Cameras:
    pose = look_at(torch.tensor(eye, dtype=torch.float32), torch.tensor(target, dtype=torch.float32))
    K = torch.tensor([[1.1 * height, 0, width / 2], [0, height, height / 2 + 1.0], [0, 0, 1]])
    return Cameras(pose[None], K[None], width, height)


def extreme_opacities() -> Gaussians:
    splats = person(200)
    opacities = torch.tensor([1e-8, 0.0039, 0.00393, 0.0041, 0.98, 0.9985, 0.9999, 1.0]).repeat(25)
    return replace(splats, opacities=opacities)


def needles() -> Gaussians:
    splats = person(150)
    return replace(splats, scales=splats.scales * torch.tensor([[20.0, 0.02, 1e-3]]))


SCENES = {
    "square": (person(), person_camera(48, 48), None),
    "odd size, background": (person(), person_camera(50, 37), GREY),
    "several tiles": (person(), person_camera(131, 65), GREY),
    "one pixel": (person(40), person_camera(1, 1), GREY),
    "several cameras": (person(), several_cameras(40, 56, [0.3, 2.0, 4.0]), torch.rand(3, 3, generator=generator())),
    "from inside": (person(400), camera_at([0.05, 1.2, 0.1], [0.3, 1.0, 0.9], 60, 44), GREY),
    "close, most of it outside the image": (person(400), camera_at([0.3, 1.5, 0.7], [0.2, 1.6, 0], 64, 64), None),
    "tiny splats": (person(300, (1e-5, 1e-4)), person_camera(48, 48), GREY),
    "huge splats": (person(25, (0.5, 4.0)), person_camera(48, 48), GREY),
    "extreme opacities": (extreme_opacities(), person_camera(48, 48), GREY),
    "needles": (needles(), person_camera(72, 48), GREY),
    "one splat": (person(1), person_camera(48, 48), None),
}


def with_gradients(splats: Gaussians, dtype: torch.dtype) -> Gaussians:
    return Gaussians(*[getattr(splats, name).detach().to(dtype, copy=True).requires_grad_() for name in PARAMETERS])


# A needle's exponent is a difference of large numbers, in any renderer that works in float32.
ROUNDING = {"needles": 20.0}
"""How many times less exact than the others a scene may be."""


def loss_of(render: Render, weights: Tensor) -> Tensor:
    return (torch.cat([render.rgb, render.alpha, render.depth], dim=-1) * weights).sum()


def in_double(cameras: Cameras) -> Cameras:
    return replace(cameras, T_camera_world=cameras.T_camera_world.double(), K=cameras.K.double())


@pytest.mark.parametrize("scene", SCENES)
def test_images_and_gradients_equal_the_dense_reference(scene: str) -> None:
    splats, cameras, background = SCENES[scene]
    ours, theirs = with_gradients(splats, torch.float32), with_gradients(splats, torch.float64)
    behind = torch.zeros(len(cameras), 3) if background is None else background
    our_background, their_background = behind.clone().requires_grad_(), behind.double().requires_grad_()
    found = rasterize(ours, cameras, None if background is None else our_background)
    right = render_dense(theirs, in_double(cameras), their_background)
    found.info["means2d"].retain_grad()
    right.info["means2d"].retain_grad()

    # Pixels where a threshold lies within rounding may differ: everywhere else, all must agree.
    sure, slack = ~right.info["fragile"][..., None], ROUNDING.get(scene, 1.0)
    assert sure.float().mean() > 0.9
    torch.testing.assert_close(found.rgb * sure, (right.rgb * sure).float(), atol=3e-6 * slack, rtol=0)
    torch.testing.assert_close(found.alpha * sure, (right.alpha * sure).float(), atol=3e-6 * slack, rtol=0)
    torch.testing.assert_close(found.depth * sure, (right.depth * sure).float(), atol=2e-5 * slack, rtol=0)

    weights = torch.randn(*found.rgb.shape[:3], 5, generator=generator()) * sure
    loss_of(found, weights).backward()
    loss_of(right, weights.double()).backward()
    pairs = {name: (getattr(ours, name).grad, getattr(theirs, name).grad) for name in PARAMETERS}
    pairs["means2d"] = (found.info["means2d"].grad, right.info["means2d"].grad)
    for name, (mine, reference) in pairs.items():
        error = (mine - reference).norm() / reference.norm().clamp(min=1e-12)
        assert error < 1e-5 * slack, (name, float(error))
    if background is not None:
        allowed = 1e-7 * weights[..., :3].abs().sum(dim=(1, 2)) * slack
        assert our_background.grad is not None and their_background.grad is not None
        assert ((our_background.grad - their_background.grad).abs() <= allowed).all()


def test_splats_behind_the_camera_are_not_drawn() -> None:
    render = rasterize(person(), camera_at([0, 1, 2], [0, 1, 4], 32, 32), GREY)
    assert torch.equal(render.rgb, GREY.expand(1, 32, 32, 3))
    assert not render.alpha.any() and not render.depth.any() and not render.info["radii"].any()


def test_near_and_far_bound_the_depth_of_rendered_splats() -> None:
    splats, cameras = person(), person_camera(32, 32)
    depths = rasterize(splats, cameras).info["depths"]
    middle = float(depths.flatten().sort().values[150:152].mean())  # between two splats
    front, back = rasterize(splats, cameras, far=middle), rasterize(splats, cameras, near=middle)
    assert torch.equal(front.info["radii"][..., 0] > 0, depths <= middle)
    assert front.depth.max() <= middle and back.depth[back.alpha > 0].min() >= middle - 1e-5


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_to_draw_leaves_the_background_and_zero_gradients(count: int) -> None:
    splats = with_gradients(replace(person(count or 1), opacities=torch.zeros(count or 1)), torch.float32)
    if count == 0:
        splats = Gaussians(*[getattr(splats, name).detach()[:0].requires_grad_() for name in PARAMETERS])
    render = rasterize(splats, person_camera(20, 20), GREY)
    assert torch.equal(render.rgb, GREY.expand(1, 20, 20, 3))
    assert render.info["means2d"].shape == (1, len(splats), 2)
    loss_of(render, torch.ones(5)).backward()
    assert all(not getattr(splats, name).grad.any() for name in PARAMETERS)


@pytest.mark.parametrize(
    "broken",
    [
        {"means": [float("nan"), 1, 0]},
        {"means": [0, float("inf"), 0]},
        {"scales": [float("nan"), 0.1, 0.1]},
        {"scales": [float("inf"), 0.1, 0.1]},
        {"scales": [1e30, 0.1, 0.1]},
        {"quats": [0, 0, 0, 0]},
        {"quats": [float("nan"), 0, 0, 1]},
        {"opacities": float("nan")},
    ],
    ids=str,
)
def test_splats_that_are_not_finite_are_left_out(broken: dict) -> None:
    splats, cameras = person(50), person_camera(40, 40)
    ((name, value),) = broken.items()
    changed = getattr(splats, name).clone()
    changed[7] = torch.tensor(value, dtype=torch.float32)
    rest = Gaussians(*[torch.cat([getattr(splats, n)[:7], getattr(splats, n)[8:]]) for n in PARAMETERS])
    damaged = with_gradients(replace(splats, **{name: changed}), torch.float32)
    render = rasterize(damaged, cameras)
    assert torch.equal(render.rgb, rasterize(rest, cameras).rgb)
    loss_of(render, torch.ones(5)).backward()
    assert all(getattr(damaged, n).grad.isfinite().all() for n in PARAMETERS)


def test_absgrad_sums_absolute_gradients_over_the_pixels() -> None:
    splats, cameras = person(6, (0.05, 0.2)), person_camera(9, 7)
    weights = torch.randn(1, 7, 9, 5, generator=generator())
    render = rasterize(with_gradients(splats, torch.float32), cameras, absgrad=True)
    loss_of(render, weights).backward()
    right = render_dense(with_gradients(splats, torch.float64), in_double(cameras))
    pixels = torch.cat([right.rgb, right.alpha, right.depth], dim=-1) * weights.double()
    expected = sum(
        torch.autograd.grad(pixel, right.info["means2d"], retain_graph=True)[0].abs()
        for pixel in pixels.sum(dim=-1).flatten()
    )
    torch.testing.assert_close(render.info["means2d"].absgrad.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_default_strategy_runs_on_it(absgrad: bool) -> None:
    splats, cameras = person(100), several_cameras(32, 32, [0.0, 1.5])
    params = torch.nn.ParameterDict(
        {
            "means": splats.means,
            "quats": splats.quats,
            "scales": splats.scales.log(),
            "opacities": splats.opacities.logit(),
            "colors": splats.colors,
        }
    )
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([value], lr=1e-3) for name, value in params.items()
    }
    strategy = DefaultStrategy(refine_start_iter=0, refine_every=2, grow_grad2d=1e-6, absgrad=absgrad)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in range(1, 3):
        posed = Gaussians(
            params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), params["colors"]
        )
        render = rasterize(posed, cameras, absgrad=absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, render.info)
        loss_of(render, torch.tensor([1.0, 0.5, -1.0, 0.1, 0.0])).backward()
        if step == 1:
            means2d, visible = render.info["means2d"], (render.info["radii"] > 0).all(dim=-1)
            gradient = (means2d.absgrad if absgrad else means2d.grad) * 16 * 2  # half an image, two cameras
            strategy.step_post_backward(params, optimizers, state, step, render.info)
            torch.testing.assert_close(state["grad2d"], (gradient.norm(dim=-1) * visible).sum(dim=0))
            assert torch.equal(state["count"], visible.sum(dim=0).float())
        else:
            strategy.step_post_backward(params, optimizers, state, step, render.info)
    assert len(params["means"]) > 100
    assert all(len(value) == len(params["means"]) for value in params.values())


def test_gradients_reach_only_tensors_that_require_them() -> None:
    splats = person(50)
    colors = splats.colors.clone().requires_grad_()
    render = rasterize(replace(splats, colors=colors), person_camera(24, 24))
    render.rgb.sum().backward()
    assert colors.grad is not None and colors.grad.any() and not render.info["means2d"].requires_grad
    with torch.no_grad():
        assert not rasterize(replace(splats, colors=colors), person_camera(24, 24)).rgb.requires_grad


def test_strided_splats_and_changes_in_place_are_fine() -> None:
    splats, cameras = person(50), person_camera(21, 24)
    colors = torch.tensor([0.1, 0.2, 0.3]).expand(50, 3)
    strided = replace(splats, means=splats.means.T.contiguous().T, colors=colors)
    whole = replace(splats, colors=colors.contiguous())
    image = rasterize(with_gradients(strided, torch.float32), cameras).rgb
    assert torch.equal(image, rasterize(whole, cameras).rgb)
    assert image.clone().clamp_(max=0.1).max() <= 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"background": torch.zeros(2, 3)}, r"background has shape \(2, 3\), expected \(1, 3\)"),
        ({"cameras": replace(person_camera(8, 8), width=0)}, "0 x 8 pixels"),
        ({"gaussians": replace(person(2), means=torch.zeros(2, 3, dtype=torch.float64))}, "'means': 'torch.float64'"),
    ],
    ids=["background", "size", "precision"],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"gaussians": person(2), "cameras": person_camera(8, 8), "background": GREY} | change
    with pytest.raises(ValueError, match=message):
        rasterize(**arguments)


def test_the_renderer_is_there_for_the_cpu() -> None:
    require_renderer("cpu")


@settings(max_examples=40)
@given(
    count=st.integers(1, 60),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    log_scale=st.floats(-9, 3),
    spread=st.floats(0.01, 3),
    seed=st.integers(0, 1000),
)
def test_properties_of_any_image(
    count: int, width: int, height: int, log_scale: float, spread: float, seed: int
) -> None:
    random = generator(seed)
    splats = Gaussians(
        means=torch.randn(count, 3, generator=random) * spread,
        quats=torch.randn(count, 4, generator=random),
        scales=(torch.randn(count, 3, generator=random) + log_scale).exp(),
        opacities=torch.rand(count, generator=random),
        colors=torch.rand(count, 3, generator=random),
    )
    cameras = camera_at([0.2, 0.1, 2], [0, 0, 0], width, height)
    tracked = with_gradients(splats, torch.float32)
    render = rasterize(tracked, cameras, GREY)
    assert render.alpha.min() >= 0 and render.alpha.max() <= 1
    assert render.rgb.min() >= -1e-5 and render.rgb.max() <= 1 + 1e-5
    covered = render.alpha > 0
    assert torch.equal(render.depth > 0, covered)
    depths = render.info["depths"][(render.info["radii"] > 0).all(dim=-1)]
    if covered.any():
        assert render.depth[covered].min() >= depths.min() * (1 - 1e-3)
        assert render.depth[covered].max() <= depths.max() * (1 + 1e-3)

    black = rasterize(splats, cameras)
    assert torch.equal(black.alpha, render.alpha) and torch.equal(black.depth, render.depth)
    torch.testing.assert_close(render.rgb, black.rgb + (1 - black.alpha) * GREY)

    order = torch.randperm(count, generator=random)
    shuffled = Gaussians(*[getattr(splats, name)[order] for name in PARAMETERS])
    if len(depths.unique()) == len(depths):  # equal depths are drawn in order of index
        assert torch.equal(rasterize(shuffled, cameras, GREY).rgb, render.rgb)

    loss_of(render, torch.randn(5, generator=random)).backward()
    assert all(getattr(tracked, name).grad.isfinite().all() for name in PARAMETERS)
