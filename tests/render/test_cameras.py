"""The orbit sampler and the fixed views: the right part, from the right side, in the image."""

import math
from dataclasses import replace

import pytest
import torch

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import load_body
from avatar_gs.body.pose import JOINT, a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.geometry import project
from avatar_gs.render.cameras import fixed_views, sample_views
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.types import Framing


@pytest.fixture(scope="module")
def standing():
    return load_body(BodyConfig(path=str(FREE_BODY))).pose(a_pose())


def seen(points, cameras):
    pixels, _ = project(points, cameras)
    return ((pixels > 0) & (pixels < cameras.width)).all(-1)


def test_each_framing_shows_its_part(standing):
    views = fixed_views(standing, list(Framing), [0.0] * 4, 128)
    assert [framing.value for framing in views.framings] == ["body", "head", "upper", "lower"]
    body, head, upper, lower = seen(standing.vertices, views.cameras)
    assert body.all()
    joints = seen(standing.joints, views.cameras)
    assert joints[1, JOINT["head"]] and not joints[1, JOINT["pelvis"]] and not joints[1, JOINT["left_wrist"]]
    assert joints[2, JOINT["head"]] and joints[2, JOINT["spine1"]] and not joints[2, JOINT["left_knee"]]
    assert joints[3, JOINT["left_foot"]] and joints[3, JOINT["left_hip"]] and not joints[3, JOINT["neck"]]
    assert head.float().mean() < 0.6 and lower.float().mean() < 0.6 and upper.float().mean() < 0.9


def test_azimuth_turns_towards_the_left_hand(standing):
    """From +90 degrees the left hand is nearest; from the front it is on the right of the image."""
    views = fixed_views(standing, [Framing.BODY] * 2, [0.0, 90.0], 128)
    hands = standing.joints[[JOINT["left_wrist"], JOINT["right_wrist"]]]
    pixels, depth = project(hands, views.cameras)
    assert pixels[0, 0, 0] > pixels[0, 1, 0] + 30
    assert depth[1, 0] < depth[1, 1] - 0.5


def test_the_sampler_keeps_to_its_settings_and_its_seed(standing):
    config = replace(CamerasConfig(), elevation_min=-5.0, elevation_max=10.0, fov_min=40.0, fov_max=50.0)
    draw = lambda: sample_views(config, 64, torch.Generator().manual_seed(4), standing, 128)
    views, again = draw(), draw()
    assert torch.equal(views.cameras.T_camera_world, again.cameras.T_camera_world)
    degrees = torch.rad2deg(views.elevation)
    assert degrees.min() >= -5 and degrees.max() <= 10
    focal = views.cameras.K[:, 0, 0] / 128
    fov = 2 * torch.rad2deg(torch.atan(0.5 / focal))
    assert fov.min() >= 39.99 and fov.max() <= 50.01
    sectors = torch.floor((views.azimuth + math.pi) / (2 * math.pi / 64)).long().clamp(0, 63)
    assert sorted(sectors.tolist()) == list(range(64)), "one view in each sector"


def test_framings_follow_their_probabilities(standing):
    none = FramingConfig(probability=0.0)
    config = replace(CamerasConfig(), body=none, upper=none, lower=none)
    views = sample_views(config, 32, torch.Generator().manual_seed(0), standing, 128)
    assert set(views.framings) == {Framing.HEAD}


@pytest.mark.parametrize(
    "change",
    [
        {"fov_min": 80.0},
        {"elevation_max": 95.0},
        {"azimuth_max": -180.0},
        {"jitter": -1.0},
        {"body": FramingConfig(probability=-0.1)},
        {"head": FramingConfig(span_min=2.0, span_max=1.0)},
    ],
)
def test_invalid_settings_are_refused_in_one_line(change):
    with pytest.raises(UserError, match="cameras"):
        replace(CamerasConfig(), **change)


def test_an_identity_raises_the_fraction_of_head_views_and_keeps_the_others_proportions():
    plain = CamerasConfig(head_share_with_identity=0.6)
    raised = plain.for_identity()
    names = ("body", "head", "upper", "lower")
    before, after = ([getattr(config, name).probability for name in names] for config in (plain, raised))
    assert after[1] / sum(after) == pytest.approx(0.6)
    assert (after[0], after[2], after[3]) == (before[0], before[2], before[3])
    assert raised.head.span_min == plain.head.span_min
    assert CamerasConfig(head_share_with_identity=0.1).for_identity().head.probability == before[1]
    only_head = CamerasConfig(body=FramingConfig(0.0), upper=FramingConfig(0.0), lower=FramingConfig(0.0))
    assert only_head.for_identity().head.probability == before[1]
    never = CamerasConfig(head=FramingConfig(0.0))
    assert never.for_identity().head.probability == 0
