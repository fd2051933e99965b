"""The synthetic people: captions match images."""

import dataclasses

import numpy as np
import pytest
import torch

from avatar_gs.body.pose import a_pose
from avatar_gs.lab.train_prior.language import mini_language
from avatar_gs.lab.train_prior.tokenizer import TOKEN_LENGTH, write_tokenizer
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.captions import caption, negative_caption, view_suffix
from avatar_gs.lab.world.dataset import (
    SIZE,
    control_maps,
    in_other_colours,
    paint,
    part_masks,
    recoloured,
    render_views,
)
from avatar_gs.lab.world.people import held_out, individuals, random_person, redressed, training_person
from avatar_gs.lab.world.views import view_of
from avatar_gs.lab.world.vocabulary import CLOTHES, HAIR, UNTAUGHT_WORDS, nearest_names, table
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.render.cameras import fixed_views
from avatar_gs.types import Framing, ViewDirection


@pytest.fixture(scope="module")
def person():
    """Everything at once: long blonde hair, a red and white striped shirt, a skirt, a hat and glasses."""
    rng = np.random.default_rng(1)
    base = random_person(rng)
    outfit = dataclasses.replace(
        base.outfit,
        shirt="red",
        stripe="",
        bottoms="skirt",
        bottoms_colour="blue",
        shoes="green",
        hat="black",
        glasses=True,
    )
    rgb = tuple(float(value) for value in HAIR["blonde"])
    return dataclasses.replace(base, hair="blonde", hair_rgb=rgb, long_hair=True, betas=(0.0,) * 10, outfit=outfit)


def drawn(person, framings, azimuths):
    wardrobe = load_wardrobe()
    posed = wardrobe.body.pose(a_pose(), torch.tensor(person.betas))
    views = fixed_views(posed, framings, azimuths, 2 * SIZE)
    return render_views(wardrobe, person, posed, views, np.random.default_rng(0))


def test_captions_consist_of_known_tokens_and_fit(tmp_path):
    tokenizer = write_tokenizer(tmp_path, mini_language().tokens)
    rng = np.random.default_rng(0)
    people = [*individuals()[:20], *(random_person(rng) for _ in range(200))]
    for someone in people:
        text = caption(someone, rng, 1.0) + view_suffix(Framing.HEAD, ViewDirection.FRONT)
        tokens = tokenizer.tokenize(text)
        words = text.replace(",", " ").replace("-", " ").split()
        assert set(words) <= set(mini_language().known)
        assert [token for token in tokens if token.removesuffix("</w>").isalpha()] == [f"{word}</w>" for word in words]
        assert len(tokens) + 2 <= TOKEN_LENGTH
    assert all(len(tokenizer.tokenize(word.strip(","))) == 1 for word in negative_caption(rng).replace(",", "").split())


def test_untaught_words_are_tokens_but_not_known_words():
    untaught = set(UNTAUGHT_WORDS.split())
    assert "raincoat" in untaught <= set(mini_language().tokens)
    assert untaught.isdisjoint(mini_language().known)


def test_captions_contain_all_attributes_with_mention_1():
    rng = np.random.default_rng(3)
    for _ in range(100):
        someone = random_person(rng)
        text = caption(someone, rng, 1.0).replace("gray", "grey").replace("blond ", "blonde ")
        assert someone.outfit.shirt in text and someone.outfit.bottoms_colour in text and someone.outfit.shoes in text
        assert (someone.hair in text) if someone.hair else ("bald" in text)
        assert ("hat" in text.replace(",", "").split()) == bool(someone.outfit.hat)
        assert ("glasses" in text) == someone.outfit.glasses


def test_individuals_are_fixed_and_distinct():
    names = [someone.name for someone in individuals()]
    first, last = zip(*(name.split() for name in names), strict=True)
    assert len(set(first)) == len(first) == 200 and len(set(last)) == 200
    assert individuals()[7].betas == individuals.__wrapped__()[7].betas
    assert not any(held_out(someone) for someone in individuals())


def test_training_people_have_no_held_out_combination():
    rng = np.random.default_rng(0)
    drawn_people = [training_person(rng) for _ in range(500)] + [redressed(individuals()[0], rng) for _ in range(100)]
    drawn_people += [recoloured(drawn_people[i], rng) for i in range(200)]
    drawn_people += [in_other_colours(drawn_people[i], rng) for i in range(200)]
    assert not any(held_out(someone) for someone in drawn_people)
    fraction = np.mean([held_out(random_person(rng)) for _ in range(2000)])
    assert 0.07 < fraction < 0.13


def test_a_face_is_on_the_front_only_and_added_meshes_extend_the_silhouette(person):
    sample = drawn(person, [Framing.HEAD, Framing.HEAD, Framing.BODY], [0.0, 180.0, 180.0])
    front, back, whole = sample.maps
    for part in (pic.EYE, pic.BROW, pic.MOUTH, pic.EYE_WHITE):
        assert (front.parts == part).sum() > 20
        assert (back.parts == part).sum() == 0
    bare = dataclasses.replace(
        person, long_hair=False, outfit=dataclasses.replace(person.outfit, hat="", glasses=False, bottoms="trousers")
    )
    bare_whole = drawn(bare, [Framing.BODY], [180.0]).maps[0]
    outside = (bare_whole.parts == pic.BACKGROUND) & (whole.parts > 0)
    assert (whole.parts[outside] == pic.BOTTOMS).sum() > 500, "a skirt is wider than trousers"
    assert (whole.parts[outside] == pic.HAT).sum() > 100, "a hat is wider than a head"
    neck = dress(load_wardrobe(), person).vertices
    assert len(neck) > len(load_wardrobe().vertices)


def test_left_and_right_are_not_mirrored(person):
    """From the front, the avatar's left hand is at the right of the image; seen from its left, it faces left."""
    wardrobe = load_wardrobe()
    posed = wardrobe.body.pose(a_pose())
    views = fixed_views(posed, [Framing.HEAD], [90.0], 2 * SIZE)
    sample = render_views(wardrobe, person, posed, views, np.random.default_rng(0))
    mouth = np.nonzero(sample.maps[0].parts == pic.MOUTH)[1]
    hair = np.nonzero(sample.maps[0].parts == pic.HAIR)[1]
    assert mouth.mean() < hair.mean()


def test_painted_colours_are_measured_as_their_names():
    rng = np.random.default_rng(5)
    wrong = total = 0
    for _ in range(12):
        someone = random_person(rng)
        sample = drawn(someone, [Framing.BODY, Framing.LOWER], [0.0, 180.0])
        for part_map in sample.maps:
            image = paint(someone, part_map, rng).astype(np.float32) / 255
            for part, name, index in (
                ("shirt", someone.outfit.shirt, pic.SHIRT),
                ("bottoms", someone.outfit.bottoms_colour, pic.BOTTOMS),
                ("shoes", someone.outfit.shoes, pic.SHOES),
            ):
                mask = part_masks(part_map, index) > 0.95
                if mask.sum() >= 6:
                    wrong += str(nearest_names(np.median(image[mask], 0), part)) != name
                    total += 1
    assert total > 40 and wrong <= 0.03 * total


def test_every_colour_name_is_nearest_to_itself():
    for part in ("hair", "shirt"):
        for name, rgb in table(part).items():
            assert str(nearest_names(np.array(rgb) / 255 * 0.92, part)) == name
    assert set(table("hair")) == set(HAIR) and set(table("shirt")) == set(CLOTHES)


def test_pose_maps_hide_the_face_from_behind(person):
    wardrobe = load_wardrobe()
    posed = wardrobe.body.pose(a_pose())
    views = fixed_views(posed, [Framing.HEAD, Framing.HEAD], [0.0, 180.0], 2 * SIZE)
    front, back = control_maps(wardrobe, posed, views)
    white = lambda control: (control.min(-1) > 100).sum()
    assert white(front) > 20 * max(1, white(back))


def test_views_have_names():
    assert view_of(0.5) is ViewDirection.FRONT
    assert view_of(-np.pi / 2) is view_of(np.pi / 2 + 2 * np.pi) is ViewDirection.SIDE
    assert view_of(np.pi) is view_of(-3.0) is ViewDirection.BACK
