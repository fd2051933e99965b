"""People made of the real assets and Anny's shapes."""

import numpy as np
import pytest
import torch

from avatar_gs.body.pose import JOINT, a_pose, random_pose, zero_pose
from avatar_gs.lab.people import dataset, samples
from avatar_gs.lab.people.config import PeopleDatasetConfig
from avatar_gs.lab.people.person import random_person
from avatar_gs.lab.people.rendering import SUPERSAMPLE, Part, to_srgb
from avatar_gs.lab.people.shape import SKIN_VERTICES, free_body
from avatar_gs.lab.people.wardrobe import dress
from avatar_gs.render.cameras import fixed_views
from avatar_gs.types import Framing

pytestmark = pytest.mark.slow


def somebody(wardrobe, seed=0, **wanted):
    rng = np.random.default_rng(seed)
    while True:
        person = random_person(rng, wardrobe.basis.local_changes)
        if all(getattr(person, name) == value for name, value in wanted.items()):
            return person


def test_the_zero_pose_is_the_t_pose(wardrobe):
    person = somebody(wardrobe)
    figure = wardrobe.basis.figure(person.phenotypes, person.changes)
    joints = wardrobe.basis.pose(figure, zero_pose()).body.joints.numpy()
    for side, x in (("left", 1), ("right", -1)):
        arm = joints[JOINT[f"{side}_wrist"]] - joints[JOINT[f"{side}_shoulder"]]
        assert np.allclose(arm / np.linalg.norm(arm), [x, 0, 0], atol=1e-5)
        leg = joints[JOINT[f"{side}_ankle"]] - joints[JOINT[f"{side}_hip"]]
        assert np.allclose(leg / np.linalg.norm(leg), [0, -1, 0], atol=1e-5)


def test_transforms_carry_the_t_pose_to_the_pose(wardrobe):
    """Joints move as in an avatar's body."""
    person, pose = somebody(wardrobe), random_pose(torch.Generator().manual_seed(0))
    figure = wardrobe.basis.figure(person.phenotypes, person.changes)
    rest, posed = (wardrobe.basis.pose(figure, p).body for p in (zero_pose(), pose))
    T = posed.T_posed_rest
    moved = (T[:, :3, :3] @ rest.joints[..., None])[..., 0] + T[:, :3, 3]
    assert torch.allclose(moved, posed.joints, atol=1e-5)


def test_adults_have_the_heights_of_adults(wardrobe):
    for seed in range(12):
        person = somebody(wardrobe, seed)
        vertices = wardrobe.basis.figure(person.phenotypes, {}).vertices[:SKIN_VERTICES]
        assert 1.4 < np.ptp(vertices[:, 1]) < 2.1


def test_the_free_body_has_distinct_vertices(wardrobe):
    assert len(np.unique(wardrobe.basis.free_vertices)) == len(free_body().template)


def test_labels_depth_and_image_agree(wardrobe):
    person = somebody(wardrobe, sex="f")
    dressed = dress(wardrobe, person, a_pose())
    views = fixed_views(dressed.posed.body, [Framing.BODY, Framing.HEAD], [0.0, 0.0], 128)
    light, background = samples.random_light(wardrobe, np.random.default_rng(0)), np.array([0.0, 0.5, 0.0])
    _, (body, head) = samples.draw_person(wardrobe, person, a_pose(), views, light, background)
    assert body.parts.shape == (128 * SUPERSAMPLE,) * 2
    solid = ~np.isin(body.parts, [Part.BACKGROUND, Part.HAIR, Part.LASHES, Part.BROWS])
    assert (np.isfinite(body.depth) >= solid).all()
    assert {Part.SKIN, Part.SHOES} <= set(np.unique(body.parts)) and {Part.EYES, Part.BROWS} <= set(
        np.unique(head.parts)
    )
    green = (body.image == to_srgb(background[None, None])[0, 0]).all(-1)
    assert green[body.alpha == 0].all() and not green[body.alpha > 0.1].any(), "the background is seen where nothing is"


def test_samples_depend_on_their_seed_only_and_match_their_captions(wardrobe):
    def seeded():
        rng = np.random.default_rng(5)
        return samples.random_samples(wardrobe, rng, views=3, size=128, captions=2, degraded_fraction=0.0)

    for first, second in zip(seeded(), seeded(), strict=True):
        assert np.array_equal(first.drawn.image, second.drawn.image)
        assert np.array_equal(first.control, second.control) and first.captions == second.captions
        assert first.control.any() and first.drawn.alpha.max() > 0.9
        assert all(text.endswith(f"{first.view} view") for text in first.captions)


def test_faces_are_close_ups_from_the_front(wardrobe):
    posed = dress(wardrobe, somebody(wardrobe), a_pose()).posed.body
    views, framings = samples.random_views(posed, 40, np.random.default_rng(0), 64, faces=1.0)
    assert set(framings) == {"head"} and set(views.framings) == {Framing.HEAD}
    degrees = np.degrees(views.azimuth.numpy())
    assert abs(degrees).max() <= samples.FACE_AZIMUTH and degrees.min() < -40 and degrees.max() > 40


def test_light_is_mostly_ambient(wardrobe):
    """The mean of light over all directions is about 1, and the key light is its smaller part."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for _ in range(60):
        light = samples.random_light(wardrobe, rng)
        ambient = samples._basis(directions) @ light.harmonics
        assert 0.7 < ambient.mean() < 1.1
        assert ambient.std() < 0.5 and light.key_colour.mean() < 0.3


def test_shards_are_read_back(wardrobe, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_wardrobe", lambda assets: wardrobe)
    config = PeopleDatasetConfig(people=2, views=2, people_per_shard=1, size=128, seed=3)
    for index in range(2):
        dataset._write_shard(dataset._Job(config, str(pack)), index, tmp_path / f"shard_{index}.npz")
    images = dataset.read_shards(sorted(tmp_path.glob("*.npz")))
    assert len(images) == 4 and images.image(0).shape == images.control(3).shape == (128, 128, 3)
    assert images.foreground.shape == images.details.shape == (4, 16, 16) and images.faces.shape == (4, 64, 64)
    assert images.people.tolist() == [0, 0, 1, 1] and len(images.captions[0]) == 3
