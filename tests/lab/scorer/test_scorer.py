"""The scorer: its losses, exact resumption, the packaged weights, and how well they do on unseen people."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import CAMERAS, PairSet, generate_pairs, random_look, read_pairs, see
from avatar_gs.lab.scorer.lighting import lambert_of_depth, paint_lit, points_of_depth, random_light
from avatar_gs.lab.scorer.measure import CAPTION_POOL, PERSON_POOL, measure_scorer, table
from avatar_gs.lab.scorer.model import (
    EMBEDDING,
    PERSON_WIDTH,
    TOKENIZER,
    WEIGHTS,
    build_model,
    load_scorer,
    package_scorer,
)
from avatar_gs.lab.scorer.train import (
    augmented,
    blurred,
    caption_loss,
    comparable,
    draw_batch,
    person_loss,
    tokenized,
    train_model,
)
from avatar_gs.lab.world.captions import brief_caption
from avatar_gs.lab.world.dataset import recoloured
from avatar_gs.lab.world.people import held_out, named_colours, random_person, training_person
from avatar_gs.lab.world.vocabulary import SYNONYMS
from avatar_gs.render.shading import Shade
from avatar_gs.types import Framing

TINY = ScorerConfig(
    people=3,
    recolourings=2,
    views=3,
    people_per_shard=3,
    textureless_share=0.4,
    shaded_share=0.3,
    workers=1,
    steps=3,
    batch=3,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(TOKENIZER))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> PairSet:
    folder = tmp_path_factory.mktemp("pairs")
    assert list(generate_pairs(TINY, folder))[-1] == (1, 1)
    assert list(generate_pairs(TINY, folder)) == [(1, 1)]
    return read_pairs(folder)


def test_rows_are_persons_and_their_captions_end_in_framing_and_view(pairs):
    assert pairs.images.shape == (6, 3, 128, 128, 3) and pairs.buckets.shape == (6, 3, 2)
    assert all(text.endswith(" view") for views in pairs.captions for texts in views for text in texts)
    assert not (pairs.images[0] == pairs.images[1]).all()
    assert (pairs.buckets[0] == pairs.buckets[1]).all(), "recolouring keeps the geometry"


def test_a_fraction_of_the_images_is_white_and_lit(pairs):
    rng = np.random.default_rng(0)
    drawn = [random_look(TINY, rng) for _ in range(2000)]
    assert drawn.count(Shade.TEXTURELESS) / 2000 == pytest.approx(TINY.textureless_share, abs=0.04)
    assert drawn.count(Shade.LAMBERTIAN) / 2000 == pytest.approx(TINY.shaded_share, abs=0.04)
    assert set(np.unique(pairs.looks)) == set(range(len(Shade)))
    colourless = np.ptp(pairs.images.astype(int), axis=-1) == 0
    white = pairs.looks == list(Shade).index(Shade.TEXTURELESS)
    assert colourless[white].mean((1, 2)).min() > 0.05 and colourless[~white].mean((1, 2)).max() < 0.03


def test_shading_of_a_depth_map_follows_lamberts_law():
    size, focal, centre, radius = 96, 200.0, np.array([0.0, 0.0, 3.0]), 0.6
    x, y = np.meshgrid(*[(np.arange(size) + 0.5 - size / 2) / focal] * 2)
    rays = np.stack([x, y, np.ones_like(x)], -1)
    square, along = (rays**2).sum(-1), rays @ centre
    root = along**2 - square * (centre @ centre - radius**2)
    depth = np.where(root > 0, (along - np.sqrt(np.maximum(root, 0))) / square, np.inf).astype(np.float32)
    points = points_of_depth(depth, focal)
    normals = (points - centre) / radius
    inside = (normals[..., 2] < -0.5) & (root > 0)
    for lamp in (np.zeros(3), np.array([-4.0, 0.0, 1.0]), np.array([1.0, -3.0, 2.0])):
        towards_lamp = (lamp - points)[inside]
        cosine = (normals[inside] * towards_lamp).sum(-1) / np.linalg.norm(towards_lamp, axis=-1)
        light = lambert_of_depth(depth, focal, lamp, 0.1) / 255
        assert np.abs(light[inside] - (0.1 + 0.9 * cosine.clip(0))).max() < 0.03
        assert (light[root <= 0] == 0).all()


def test_a_white_image_equals_its_shading():
    rng = np.random.default_rng(3)
    seen = see(training_person(rng), CAMERAS, 1, rng, poses=1)
    (drawn,), (focal,) = seen.maps, seen.focals
    for seed in range(4):
        image = paint_lit(seen.person, drawn, focal, Shade.TEXTURELESS, np.random.default_rng(seed))
        light = random_light(drawn.depth, focal, np.random.default_rng(seed), gentle=True)
        cells = light.reshape(128, 2, 128, 2).astype(float)
        solid = np.isfinite(drawn.depth).reshape(128, 2, 128, 2).all((1, 3))
        assert np.abs(image[solid] - cells.mean((1, 3))[solid, None]).max() <= 0.51
        assert light[np.isfinite(drawn.depth)].min() >= 25, "an ambient tenth"


def test_a_brief_caption_names_one_part():
    rng = np.random.default_rng(5)
    nouns = {"hair": "hair", "shirt": "shirt|top", "bottoms": "trousers|pants|shorts|skirt", "hat": "hat"}
    nouns["shoes"] = "shoes|sneakers"
    for _ in range(60):
        person = training_person(rng)
        for part, colour in named_colours(person).items():
            if part == "stripe":
                continue
            text = brief_caption(person, part, rng)
            named = {name for name, words in nouns.items() if re.search(rf"\b({words})\b", text)}
            assert named == {part}
            assert any(word in text for word in SYNONYMS.get(colour, (colour,)))


@pytest.mark.parametrize(
    "setting", [{"textureless_share": -0.1}, {"shaded_share": 1.2}, {"textureless_share": 0.6, "shaded_share": 0.5}]
)
def test_invalid_fractions_are_refused(setting):
    with pytest.raises(UserError, match=r"scorer\.(textureless|shaded)_share"):
        ScorerConfig(**setting)


def test_a_batch_holds_two_images_of_each_person(pairs, tokenizer):
    end = int(tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]
    tokens = tokenized(pairs, tokenizer)
    batch = draw_batch(pairs, tokens, 4, end, torch.Generator().manual_seed(1))
    again = draw_batch(pairs, tokens, 4, end, torch.Generator().manual_seed(1))
    assert batch.images.shape == (8, 128, 128, 3) and batch.images.min() >= 0 and batch.images.max() <= 1
    assert (batch.tokens == end).any(1).all(), "no caption is cut"
    assert torch.equal(batch.images, again.images) and torch.equal(batch.tokens, again.tokens)
    assert not torch.equal(batch.images[:4], batch.images[4:])


def test_caption_loss_ignores_the_other_image_of_the_same_view():
    features = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 1])).float()
    scale = torch.tensor(20.0)
    alike = torch.zeros(4, 2, dtype=torch.long)
    assert caption_loss(features, features, scale, alike) < 1e-6
    other = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 0]])
    assert caption_loss(features, features, scale, other) == pytest.approx(np.log(2), abs=1e-4)


def test_person_loss_skips_pairs_that_cannot_be_recognised():
    features = torch.eye(2).repeat(2, 1)
    body = torch.zeros(4, 2, dtype=torch.long)
    coloured = torch.zeros(4, dtype=torch.bool)
    swapped = torch.cat([features[:2], features[:2].flip(0)])
    assert person_loss(features, body, coloured) < 1e-4
    assert person_loss(swapped, body, coloured) > 5
    white = torch.tensor([True, False, False, True])
    assert person_loss(swapped, body, white) == 0, "white people cannot be distinguished"
    head, lower = list(Framing).index(Framing.HEAD), list(Framing).index(Framing.LOWER)
    buckets = torch.tensor([[head, 0], [head, 0], [lower, 0], [lower, 0]])
    assert person_loss(swapped, buckets, coloured) == 0
    assert comparable(torch.tensor([head]), torch.tensor([head])).all()


def test_augmentation_keeps_plain_images_plain_except_for_noise():
    plain = torch.full((6, 32, 32, 3), 0.5)
    changed = augmented(plain, torch.Generator().manual_seed(0))
    assert changed.std((1, 2)).max() < 0.06 and (changed.mean((1, 2)) - 0.5).abs().max() < 0.08
    spike = torch.zeros(1, 3, 15, 15)
    spike[..., 7, 7] = 1
    soft = blurred(spike, 1.0)
    assert soft.sum((2, 3)) == pytest.approx(torch.ones(1, 3), abs=1e-5)
    assert soft[0, 0, 7, 7] == pytest.approx(1 / (2 * np.pi), rel=0.02)


def test_a_resumed_training_equals_an_uninterrupted_one(pairs, tokenizer, tmp_path):
    whole = train_model(TINY, pairs, tokenizer, tmp_path / "whole.safetensors", lambda *_: None)

    class Stop(Exception):
        pass

    def stop(done: int, total: int, loss: float) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        train_model(TINY, pairs, tokenizer, tmp_path / "parts.safetensors", stop)
    seen = []
    resumed = train_model(TINY, pairs, tokenizer, tmp_path / "parts.safetensors", lambda done, *_: seen.append(done))
    assert seen == [3]
    for name, value in whole.named_parameters():
        assert torch.equal(value, resumed.get_parameter(name)), name


def test_training_can_start_from_the_packaged_weights(pairs, tokenizer, tmp_path):
    config = replace(TINY, from_packaged=True, steps=1, lr=1e-9)
    model = train_model(config, pairs, tokenizer, tmp_path / "more.safetensors", lambda *_: None)
    packaged = load_scorer().model
    for name, value in model.named_parameters():
        assert torch.allclose(value, packaged.get_parameter(name), atol=1e-7), name


def test_a_written_scorer_is_a_plain_clip_model(tokenizer, tmp_path):
    model = build_model(tokenizer).eval()
    package_scorer(model, tmp_path)
    images = torch.rand(2, 128, 128, 3)
    ours = load_scorer(tmp_path)
    features = ours.image_features(images)
    assert features.shape == (2, EMBEDDING) and torch.allclose(features.norm(dim=1), torch.ones(2))
    assert ours.person_features(images).shape == (2, PERSON_WIDTH)
    plain = CLIPModel.from_pretrained(str(tmp_path)).float().eval()
    ids = tokenizer(["a man in a red shirt"], return_tensors="pt").input_ids
    out = plain(input_ids=ids, pixel_values=(images.permute(0, 3, 1, 2) - 0.5) / 0.25)
    assert torch.allclose(out.image_embeds, features, atol=1e-4)
    assert torch.allclose(out.text_embeds, ours.text_features(["a man in a red shirt"]), atol=1e-4)
    padded = ours.text_features(["a man in a red shirt", "a woman in a blue shirt with long sleeves and a hat"])
    assert torch.allclose(padded[:1], out.text_embeds, atol=1e-4), "padding changes nothing"


def test_other_folders_and_vocabularies_are_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match="no scorer is there"):
        load_scorer(tmp_path / "none")
    model = build_model(tokenizer)
    model.config.vocabulary = "another"
    package_scorer(model, tmp_path)
    with pytest.raises(UserError, match="another vocabulary"):
        load_scorer(tmp_path)


def test_gradients_reach_the_image():
    images = torch.rand(1, 64, 64, 3, requires_grad=True)
    scorer = load_scorer()
    (scorer.image_features(images) @ scorer.text_features(["a red shirt"]).T).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_the_packaged_weights_are_small():
    assert sum(entry.stat().st_size for entry in os.scandir(WEIGHTS)) < 10e6


@pytest.mark.slow
def test_the_packaged_scorer_recognises_unseen_people_and_captions():
    figures = measure_scorer(load_scorer(), people=CAPTION_POOL)
    chance = 1 / PERSON_POOL
    assert figures["caption of 100"] > 0.75 and figures["caption of 100, top 5"] > 0.9
    assert figures["person of 20, front"] > 10 * chance and figures["person of 20, back"] > 10 * chance
    assert figures["caption of 100, shaded"] > 0.5
    assert figures["caption of 100, top 5, textureless"] > 0.1, "framing and view are seen without colours"
    assert "person of 20, back" in table(figures)


def test_training_people_are_never_held_out():
    rng = np.random.default_rng(0)
    person = random_person(rng)
    assert not any(held_out(recoloured(person, rng)) for _ in range(60))


def test_pairs_of_an_earlier_version_are_refused(tmp_path):
    np.savez(tmp_path / "pairs_0000.npz", images=np.zeros((1, 2, 8, 8, 3), np.uint8), buckets=np.zeros((1, 2, 2)))
    with pytest.raises(UserError, match="earlier version"):
        read_pairs(tmp_path)
