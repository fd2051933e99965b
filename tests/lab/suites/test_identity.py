"""suite=identity: people whom nobody knows, measures against known answers, and the suite from end to end with a prior
and judges of random weights."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.identity.config import Clothes, EmbedConfig, IdentityMethod
from avatar_gs.lab.metrics import likeness, people
from avatar_gs.lab.metrics.avatar import ViewImages
from avatar_gs.lab.metrics.likeness import Gallery, LikenessModels, compare
from avatar_gs.lab.metrics.portraits import Portrait, render_portrait, render_variation, through_prior
from avatar_gs.lab.metrics.views import BACK_AZIMUTHS, FRONTS, ORBIT, back_views, measured_views, some_views
from avatar_gs.lab.scorer.faces import FaceNet
from avatar_gs.lab.scorer.model import TOKENIZER, build_model, frozen
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import identity, identity_figures
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.identity import IdentityJob, IdentitySuite
from avatar_gs.lab.suites.identity_figures import ABLATIONS, METHODS, IdentityRecord, Portrayal
from avatar_gs.lab.world.people import held_out, individuals
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from avatar_gs.types import Framing
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance


@pytest.fixture(scope="module")
def judges() -> LikenessModels:
    """Untrained, but the real ones: their features differ wherever images do."""
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    torch.manual_seed(0)
    return LikenessModels(frozen(build_model(tokenizer), tokenizer), FaceNet().eval())


@pytest.fixture(autouse=True)
def packaged_judges(judges, monkeypatch) -> None:
    """The suite asks the untrained judges."""
    monkeypatch.setattr(identity, "load_likeness_models", lambda: judges)


@pytest.fixture(scope="module")
def truth() -> Portrait:
    return render_portrait(people.crowd()[0], measured_views())


def small_settings(**options) -> LabSettings:
    """Avatars of two steps, identities of one."""
    settings = lab_settings(
        stage="evaluate",
        suite=SuiteName.identity,
        guidance=plain_guidance(method="sds"),
        splats=SplatsConfig(count=300),
        density=DensityConfig(enabled=False),
        optimize=OptimizeConfig(steps=2, batch=1),
        embed=EmbedConfig(steps=1, batch=2, clothes=Clothes.bound),
        evaluate=EvaluateConfig(people=1, few_people=1),
    )
    return lab_settings(settings, **options)


# ---- people


def test_nobody_knows_the_people():
    known = {replace(person, name="") for person in individuals()}
    assert len(set(people.crowd())) == people.SUBJECTS + people.DISTRACTORS >= 32
    assert not known & set(people.crowd()) and all(held_out(person) for person in people.crowd())


def test_images_show_a_person_in_many_ways(tmp_path):
    photos = people.photograph(0)
    assert len(photos) == 8 and people.FRAMINGS.count(Framing.HEAD) >= 3
    assert len({image.tobytes() for image in photos}) == 8
    assert len({tuple(image[0, 0]) for image in photos}) > 4, "backgrounds differ"
    folder = people.write_photos(0, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert people.write_photos(0, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written and len(written) == 8


def test_no_image_is_taken_from_a_measured_side():
    for azimuth, degrees in ((0.0, 0.0), (2.0, 2.0), (44.0, 1.0), (-46.0, 1.0), (202.5, 22.5), (-359.0, 1.0)):
        assert people._nearest_measured(azimuth) == pytest.approx(degrees)


def test_new_outfits_are_all_new_and_said():
    for index, person in enumerate(people.crowd()[:6]):
        outfit, own = people.other_outfit(index), person.outfit
        names = [outfit.shirt, outfit.bottoms_colour, outfit.shoes]
        assert len(set(names)) == 3 and not set(names) & {own.shirt, own.bottoms_colour, own.shoes, own.hat}
        prompt = people.outfit_prompt(outfit)
        assert prompt.startswith("<id> wearing a") and all(name in prompt for name in names)
        assert f"{'long' if own.long_sleeves else 'short'} sleeves" in prompt
        assert not outfit.hat and not outfit.glasses and outfit.bottoms == "trousers"


# ---- measures


def test_a_person_is_like_itself_and_less_like_another(truth, judges):
    own = compare(truth.images, truth, judges.scorer)
    assert len(own) == 2 * len(ORBIT)
    assert all(view.psnr == 99 and abs(view.distance) < 1e-5 and all(view.kept.values()) for view in own)
    assert max(value for view in own for value in view.delta_e.values()) == 0
    faces = [view.face for view in own if view.face is not None]
    assert faces and faces == pytest.approx([1.0] * len(faces))
    assert {(view.framing, view.side) for view in own if view.face is not None} == {("head", "front")}
    again = compare(render_variation(truth.person, truth.views, 0), truth, judges.scorer)
    other = compare(render_portrait(people.crowd()[1], truth.views).images, truth, judges.scorer)
    for better, worse in ((own, again), (again, other)):
        assert np.mean([view.psnr for view in better]) > np.mean([view.psnr for view in worse]) + 3
        assert np.mean([view.distance for view in better]) < np.mean([view.distance for view in worse])
        mean = [np.mean([value for view in some for value in view.delta_e.values()]) for some in (better, worse)]
        assert mean[0] < mean[1]
    assert np.mean([kept for view in again for kept in view.kept.values()]) > 0.9


def test_parts_that_are_gone_or_painted_over_are_found(truth, judges):
    rgb = truth.images.rgb.copy()
    for view in range(len(rgb)):
        rgb[view][truth.mask(view, "skin")] = (0.1, 0.8, 0.1)
    green = compare(ViewImages(rgb, truth.images.alpha), truth, judges.scorer)
    assert not any(view.kept.get("skin") for view in green) and all(view.delta_e.get("skin", 99) > 25 for view in green)
    assert all(view.kept["shirt"] and view.delta_e["shirt"] == 0 for view in green if "shirt" in view.kept)
    blank = ViewImages(np.full_like(rgb, 0.5), np.ones_like(truth.images.alpha))
    assert all(not view.face_kept for view in compare(blank, truth, judges.scorer) if view.face is not None)


def test_psnr_of_a_known_error():
    true, mask = np.full((4, 4, 3), 0.5), np.zeros((4, 4), bool)
    mask[0] = True
    found = true.copy()
    found[0] += 0.1
    found[1:] = 0.0
    assert likeness.psnr(found, true, mask) == pytest.approx(20.0)
    assert likeness.psnr(true, true, mask) == 99.0


def test_colour_layouts_see_colours_and_places():
    def block(colour: tuple[float, float, float], left: int) -> ViewImages:
        alpha = np.zeros((1, 32, 32), np.float32)
        alpha[:, 8:24, left : left + 8] = 1
        return ViewImages((alpha[..., None] * np.array(colour)).astype(np.float32), alpha)

    red, maroon, blue, moved = (
        likeness.layout(block(colour, left))
        for colour, left in (((0.8, 0.1, 0.1), 8), ((0.6, 0.1, 0.1), 8), ((0.1, 0.2, 0.8), 8), ((0.8, 0.1, 0.1), 16))
    )
    distance = likeness.layout_distance
    assert distance(red, red) == 0 < distance(red, maroon) < distance(red, blue)
    assert distance(red, moved) == pytest.approx(likeness.MISSED) and distance(red, blue) == distance(blue, red)


def test_everyone_is_found_in_the_gallery(judges):
    views = some_views(measured_views(), FRONTS)
    crowd = [render_portrait(person, views).images for person in people.crowd()[:4]]
    gallery = Gallery(crowd, judges.scorer)
    for index, images in enumerate(crowd):
        distances = gallery.distances(images)
        assert set(distances) == {"colour layout", "scorer"}
        assert all(identity_figures.rank(values, index) == 0 for values in distances.values())
        assert identity_figures.rank(likeness.combined(distances), index) == 0


def test_back_views_show_no_face_paint():
    heads = render_portrait(people.crowd()[0], back_views())
    paint = [np.isin(part_map.parts, likeness.FACE).sum() for part_map in heads.maps]
    assert len(paint) == len(BACK_AZIMUTHS) and 6 * len(paint) >= 100 and max(paint) < 20
    assert (
        np.isin(
            render_portrait(people.crowd()[0], some_views(measured_views(), FRONTS)).maps[1].parts, likeness.FACE
        ).sum()
        > 200
    )


def test_the_ceiling_is_seen_through_the_priors_autoencoder(truth, prior):
    images = ViewImages(truth.images.rgb[:2], truth.images.alpha[:2])
    seen = through_prior(images, prior)
    assert seen.rgb.shape == images.rgb.shape and np.array_equal(seen.alpha, images.alpha)
    with torch.no_grad():
        decoded = prior.decode_latents(prior.encode_images(torch.from_numpy(images.on_grey()).float()))
    coarse = seen.on_grey().reshape(2, prior.image_size, -1, prior.image_size, 128 // prior.image_size, 3).mean((2, 4))
    np.testing.assert_allclose(coarse, decoded.numpy(), atol=1e-4)


def test_the_plan_makes_everyone_in_every_way(prior, tmp_path):
    def suite_of(config: EvaluateConfig, seed: int) -> IdentitySuite:
        return IdentitySuite(small_settings(evaluate=config, seed=seed), prior, tmp_path)

    jobs = list(
        IdentitySuite(
            small_settings(evaluate=EvaluateConfig(people=2, few_people=1, seeds=2), seed=5), prior, tmp_path
        ).plan()
    )
    assert len(set(jobs)) == len(jobs)
    for portrayal in (*METHODS, Portrayal.NEW_OUTFIT):
        assert {(job.subject, job.seed) for job in jobs if job.variant is portrayal} == {(0, 5), (1, 5), (0, 6), (1, 6)}
    for portrayal in (*ABLATIONS, Portrayal.FEWER_PHOTOS, Portrayal.BOUND, Portrayal.NEAR_FACES_REDRESSED):
        assert {(job.subject, job.seed) for job in jobs if job.variant is portrayal} == {(0, 5)}
    assert {job.photos for job in jobs if job.variant is Portrayal.FEWER_PHOTOS} == {1, 2, 4}
    assert (
        len(
            list(
                IdentitySuite(
                    small_settings(evaluate=EvaluateConfig(people=20, few_people=0), seed=0), prior, tmp_path
                ).plan()
            )
        )
        == 20 * 8
    )
    suite = suite_of(EvaluateConfig(), 0)
    default = list(suite.plan())
    assert sum(map(suite.cost, default)) < 40 * 60, "the default stays below an hour on two cores"
    assert sum(len(BACK_AZIMUTHS) for job in default if job.variant is Portrayal.CROSS_INIT) >= 100


def test_ways_differ_in_their_settings_and_in_nothing_else(prior, judges, tmp_path):
    suite = IdentitySuite(small_settings(guidance=plain_guidance()), prior, tmp_path)
    of = {portrayal: suite.settings_of(IdentityJob(portrayal, 0, 0)) for portrayal in Portrayal}
    assert of[Portrayal.TEXTUAL_INVERSION].embed.method is IdentityMethod.textual_inversion
    assert of[Portrayal.FAST].embed.fast and not of[Portrayal.CROSS_INIT].embed.fast
    sds = of[Portrayal.NO_Y_CON].guidance
    assert sds.method == "sds" and sds.cfg_scale == suite.settings.guidance.cfg_scale + 1
    assert of[Portrayal.NO_CONTROL].prior.control_scale == 0 < of[Portrayal.CROSS_INIT].prior.control_scale
    assert of[Portrayal.NO_HEAD].cameras.head.probability == 0 < suite.settings.cameras.head.probability
    assert of[Portrayal.BOUND_REDRESSED].embed.clothes is Clothes.bound
    assert of[Portrayal.NEAR_FACES].prior.prompts.identity_framings == ["head", "upper"]
    assert (
        of[Portrayal.NEAR_FACES_REDRESSED].prompt
        == of[Portrayal.NEW_OUTFIT].prompt
        == of[Portrayal.BOUND_REDRESSED].prompt
    )
    assert (
        of[Portrayal.CROSS_INIT].cameras == of[Portrayal.NO_IDENTITY].cameras == suite.settings.cameras.for_identity()
    )
    assert of[Portrayal.NO_IDENTITY].prompt == "a person" and of[Portrayal.CROSS_INIT].prompt == "<id>"
    keys = {
        suite.key(IdentityJob(portrayal, person, seed))
        for portrayal in Portrayal
        for person in (0, 1)
        for seed in (0, 1)
    }
    assert len(keys) == 4 * len(Portrayal)
    other = IdentitySuite(small_settings(embed=EmbedConfig(steps=2, batch=2, clothes=Clothes.bound)), prior, tmp_path)
    assert other.key(IdentityJob(Portrayal.CROSS_INIT, 0, 0)) not in keys


def test_people_are_made_measured_reported_and_never_made_twice(prior, judges, tmp_path, caplog):
    caplog.set_level(logging.INFO, "avatar_gs")
    settings, arguments = small_settings(), ["stage=evaluate", "suite=identity", "evaluate.people=1"]
    text = run_suite(settings, prior, tmp_path, arguments).read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    figures = results["figures"]
    assert len(figures["avatars"]) == 4 + 1 + 3 + 3 + 4 + 3
    assert set(figures["likeness"]) == {
        portrayal.value for portrayal in (*METHODS, Portrayal.SAME_PERSON, Portrayal.OTHER_PERSON)
    }
    groups = {f"{framing}/{side}" for framing in ("body", "head") for side in ("front", "side", "back")}
    assert set(figures["likeness"]["cross-init"]) == {"all", *groups}
    assert set(figures["photos"]) == {"1", "2", "4", "8"} and len(figures["ablations"]) == 5
    assert list(figures["choices"]) == ["cross-init", "clothes bound", "<id> near faces only"]
    assert figures["janus"]["cross-init"]["views"] == len(BACK_AZIMUTHS)
    assert figures["embedding"]["cross-init"]["steps"] == 1 and "no identity" not in figures["embedding"]
    same, other = (
        figures["likeness"][portrayal.value]["all"] for portrayal in (Portrayal.SAME_PERSON, Portrayal.OTHER_PERSON)
    )
    assert math.isfinite(same["psnr"]) and other["psnr"] < 25
    redressed = figures["editability"]["another person in the new outfit"]
    assert redressed["worn"] == 1 and redressed["own"] < 0.7, "it wears the outfit, and is somebody else"
    assert any("left)" in entry.message for entry in caplog.records), "the time left is logged"
    assert len(list((tmp_path / "identities").iterdir())) == 3 + 3, (
        "methods; fewer photos. Other jobs use the same ones"
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 20 * 96
    assert "people that training never saw" in text
    assert "avatar-gs stage=evaluate suite=identity evaluate.people=20 evaluate.seeds=3" in text
    for title in ("Retrieval", "Likeness", "Editability", "More photos", "Ablations", "Faces behind", "Costs"):
        assert f"## {title}\n" in text
    kept = [path for name in ("avatars", "identities", "pictures") for path in (tmp_path / name).rglob("*.*")]
    written = {path: path.stat().st_mtime_ns for path in kept}
    run_suite(settings, prior, tmp_path, arguments)
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == figures
    assert {path: path.stat().st_mtime_ns for path in written} == written, "nothing is made twice"


def made(suite: IdentitySuite, portrayal: Portrayal) -> IdentityRecord:
    job = IdentityJob(portrayal, 0, 0)
    return suite.measure(job, suite.make(job))[0]


def test_an_identity_is_used_and_the_prior_left_as_it_was(prior, judges, tmp_path):
    suite = IdentitySuite(small_settings(), prior, tmp_path)
    with_identity = made(suite, Portrayal.CROSS_INIT)
    without = made(suite, Portrayal.NO_IDENTITY)
    assert prior.identity is None and prior.control_scale == 1
    assert with_identity.embedding is not None and without.embedding is None
    assert with_identity.views != without.views


def test_images_that_are_too_small_are_refused_in_one_line(prior, judges, tmp_path):
    suite = IdentitySuite(small_settings(embed=EmbedConfig(steps=1, min_size=500)), prior, tmp_path)
    with pytest.raises(UserError, match="min_size"):
        suite.make(IdentityJob(Portrayal.CROSS_INIT, 0, 0))


@pytest.mark.parametrize(("name", "value"), [("people", 0), ("people", 21), ("few_people", -1), ("few_people", 21)])
def test_more_people_than_there_are_is_refused(name, value):
    with pytest.raises(UserError, match=rf"evaluate\.{name}={value}"):
        EvaluateConfig(**{name: value})
