"""The judge of views, on heads of known turn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avatar_gs.body.pose import pose_of
from avatar_gs.core.errors import UserError
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import float_images, see
from avatar_gs.lab.scorer.faces import FEATURES
from avatar_gs.lab.scorer.views import (
    CLOSE,
    VIEWS,
    TurnedHeads,
    ViewNet,
    draw_turned,
    load_view_judge,
    seen_view,
    through_the_autoencoder,
    train_views,
)
from avatar_gs.lab.train_prior.training import package_small
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.dataset import paint
from avatar_gs.lab.world.people import Person, held_out, random_person
from avatar_gs.lab.world.views import CUT, MARGIN, Head, beyond_doubt, cut_out, find_heads
from avatar_gs.lab.world.vocabulary import SKIN
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.render.cameras import orbit
from avatar_gs.types import ViewDirection


@pytest.mark.parametrize("turned", [0.0, 0.5])
def test_heads_are_found_with_position_and_turn(turned):
    body = load_wardrobe().body
    posed = body.pose(pose_of(head=(0.0, turned, 0.0)))  # to its left
    azimuths = torch.tensor([0.0, math.pi / 2, math.pi, -1.0])
    flat, span = torch.zeros(4), torch.full((4,), 0.64)
    cameras = orbit(posed.joints[15].expand(4, 3), span, azimuths, flat, torch.full((4,), 0.5), 128)
    for azimuth, head in zip(azimuths.tolist(), find_heads(posed, cameras), strict=True):
        assert abs(math.remainder(head.turn - (azimuth - turned), math.tau)) < 0.02
        assert head.shown == 1 and abs(head.centre[0] - 64) < 16 and 30 < head.centre[1] < 64
        assert 0.2 < head.span * 0.64 / 128 < 0.32, "metres"
    (half,) = find_heads(posed, replace(cameras[0], width=64))
    assert 0.3 < half.shown < 0.7


def test_a_crop_is_centred_on_the_head_and_replicates_the_border():
    image = np.zeros((128, 128, 3), np.float32)
    image[30:50, 60:80] = 1.0
    cut = cut_out(image, Head((70.0, 40.0), 20.0, 0.0, 1.0))
    rows, columns = np.nonzero(cut[..., 0] > 0.5)
    assert cut.shape == (CUT, CUT, 3) and abs(rows.mean() - (CUT - 1) / 2) < 1 and abs(columns.mean() - 31.5) < 1
    assert np.ptp(rows) + 1 == pytest.approx(CUT / MARGIN, abs=2)
    image[:, :5] = 0.7
    beyond = cut_out(image, Head((-20.0, 60.0), 20.0, 0.0, 0.0))
    np.testing.assert_allclose(beyond, 0.7, atol=1e-6)


@pytest.fixture(scope="module")
def heads() -> TurnedHeads:
    return draw_turned(25, 7, through_the_autoencoder(), held=True)


@pytest.mark.parametrize("softened", [False, True])
def test_views_of_unseen_people_are_recognised(heads, softened):
    sure = np.array([beyond_doubt(turn) for turn in heads.turns]) & (heads.softened == softened)
    named = load_view_judge()(float_images(heads.cuts[sure])).argmax(1).numpy()
    assert all((heads.views[sure] == number).sum() >= 15 for number in range(len(VIEWS)))
    assert (named == heads.views[sure]).mean() >= 0.95


def drawn_fronts(count: int) -> list[tuple[Person, pic.PartMap, Head]]:
    """People with visible faces."""
    rng = np.random.default_rng(2)
    found = []
    while len(found) < count:
        person = random_person(rng)
        if not held_out(person) or not person.hair:
            continue
        seen = see(person, replace(CLOSE, azimuth_min=-30.0, azimuth_max=30.0), 2, rng, poses=1)
        for part_map, head in zip(seen.maps, seen.heads, strict=True):
            if head.shown >= 0.9 and np.isin(part_map.parts, FEATURES).sum() >= 100:
                found.append((person, part_map, head))
    return found


def test_fronts_are_recognised_in_all_skins_and_not_without_a_face():
    rng = np.random.default_rng(3)

    def is_front(person: Person, part_map: pic.PartMap, head: Head) -> bool:
        image = paint(person, part_map, rng).astype(np.float32) / np.float32(255)
        return seen_view(image, head) is ViewDirection.FRONT

    fronts = drawn_fronts(30)
    for name, (red, green, blue) in SKIN.items():
        rgb = (float(red), float(green), float(blue))
        seen = [is_front(replace(person, skin_rgb=rgb), part_map, head) for person, part_map, head in fronts]
        assert np.mean(seen) >= 0.9, name
    covered = []
    for person, part_map, head in fronts:
        hidden = np.where(np.isin(part_map.parts, (*FEATURES, pic.SKIN)), np.uint8(pic.HAIR), part_map.parts)
        covered.append(is_front(person, replace(part_map, parts=hidden), head))
    assert np.mean(covered) <= 0.1


def test_training_resumes_exactly(tmp_path, heads):
    config = ScorerConfig(view_steps=3, checkpoint_every=2)
    steps: list[int] = []
    whole = train_views(config, heads, tmp_path / "whole", lambda done, total, loss: steps.append(done))

    def interrupt(done: int, total: int, loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_views(config, heads, tmp_path / "parts", interrupt)
    again = train_views(config, heads, tmp_path / "parts", lambda done, total, loss: steps.append(done))
    assert steps == [1, 2, 3, 3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_packaged_weights_are_read_back_and_others_refused(tmp_path):
    torch.manual_seed(0)
    net = ViewNet()
    package_small(net, tmp_path / "views.safetensors")
    cuts = torch.rand(3, CUT, CUT, 3)
    torch.testing.assert_close(load_view_judge(tmp_path / "views.safetensors")(cuts), net(cuts), atol=2e-3, rtol=0)
    save_file({"layers.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"state": "null"})
    with pytest.raises(UserError, match="judge of views"):
        load_view_judge(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is not there"):
        load_view_judge(tmp_path / "missing.safetensors")
