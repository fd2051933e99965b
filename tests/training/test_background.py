"""The learned background: what it shows where, how it learns, and that it resumes."""

import pytest
import torch

from avatar_gs.body.pose import a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.render.cameras import fixed_views
from avatar_gs.training.background import LearnedBackground, view_directions
from avatar_gs.training.config import EnvironmentConfig
from avatar_gs.types import Framing

CONFIG = EnvironmentConfig(learning_rate=0.02, width=16, octaves=2)


@pytest.fixture(scope="module")
def views(body):
    return fixed_views(body.pose(a_pose()), [Framing.BODY] * 2, [0.0, 90.0], 16).cameras


def learned(background, views, steps):
    """After steps towards a sky that is red ahead of the first camera and blue ahead of the second."""
    wanted = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])[:, None, None]
    for _ in range(steps):
        (background(view_directions(views)) - wanted).square().sum().backward()
        background.update()
    return background


def test_rays_pass_through_their_pixels(views):
    directions = view_directions(views)
    assert directions.shape == (2, 16, 16, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 16, 16))
    middle = directions[:, 7:9, 7:9].mean((1, 2))
    torch.testing.assert_close(middle, views.T_camera_world[:, 2, :3], atol=1e-2, rtol=0)
    point = (directions[1, 3, 12] @ views.T_camera_world[1, :3, :3].T) @ views.K[1].T
    torch.testing.assert_close(point[:2] / point[2], torch.tensor([12.5, 3.5]), atol=1e-3, rtol=0)


def test_it_is_grey_at_first_and_learns_a_colour_per_direction(views):
    background = LearnedBackground(CONFIG, seed=0)
    assert (background(view_directions(views)) == 0.5).all()
    sky = learned(background, views, 150)(view_directions(views)).mean((1, 2))
    assert sky[0, 0] > 0.75 and sky[0, 2] < 0.25 and sky[1, 2] > 0.75 and sky[1, 0] < 0.25


def test_renders_are_composited_onto_it(views):
    background = learned(LearnedBackground(CONFIG, seed=0), views, 20)
    sky = background(view_directions(views))
    rgb, alpha = torch.full((2, 16, 16, 3), 0.3), torch.full((2, 16, 16, 1), 0.25)
    alpha[:, :8], alpha[:, 8:12] = 0.0, 1.0
    found = background.behind(rgb * alpha, alpha, views)
    torch.testing.assert_close(found[:, :8], sky[:, :8])
    torch.testing.assert_close(found[:, 8:12], rgb[:, 8:12])
    torch.testing.assert_close(found[:, 12:], 0.25 * rgb[:, 12:] + 0.75 * sky[:, 12:])


def test_it_continues_exactly_from_its_state(views):
    whole = learned(LearnedBackground(CONFIG, seed=0), views, 8)
    half = learned(LearnedBackground(CONFIG, seed=0), views, 5)
    state = {name: value.clone() for name, value in half.state_dict().items()}
    resumed = LearnedBackground(CONFIG, seed=1)
    resumed.load_state_dict(state)
    learned(resumed, views, 3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_step_without_it_changes_nothing(views):
    background = learned(LearnedBackground(CONFIG, seed=0), views, 2)
    before = {name: value.clone() for name, value in background.state_dict().items()}
    background.update()
    background(view_directions(views)).mul(float("nan")).sum().backward()
    background.update()
    assert all(torch.equal(value, before[name]) for name, value in background.state_dict().items())
    assert all(parameter.grad is None for parameter in background.network.parameters())


def test_the_state_of_another_network_is_refused(views):
    other = LearnedBackground(EnvironmentConfig(width=8), seed=0).state_dict()
    with pytest.raises(UserError, match=r"^checkpoint: its learned background[^\n]*overwrite=true$"):
        LearnedBackground(CONFIG, seed=0).load_state_dict(other)
    with pytest.raises(UserError, match="learned background"):
        LearnedBackground(CONFIG, seed=0).load_state_dict({})


def test_the_global_generator_is_not_used():
    state = torch.random.get_rng_state()
    first, second = LearnedBackground(CONFIG, seed=1), LearnedBackground(CONFIG, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first.state_dict()["0.weight"], second.state_dict()["0.weight"])


@pytest.mark.parametrize("wrong", [{"learning_rate": -1.0}, {"random_share": 1.5}, {"width": 0}, {"octaves": 20}])
def test_invalid_networks_are_refused_in_one_line(wrong):
    with pytest.raises(UserError, match=rf"^optimize\.environment\.{next(iter(wrong))}=[^\n]*$"):
        EnvironmentConfig(**wrong)
