"""suite=scores: measures against known answers, and the suite from end to end with a prior and a judge of random
weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_gs.lab.metrics import scored_images
from avatar_gs.lab.metrics.avatar import ViewImages
from avatar_gs.lab.metrics.clip import Clip, load_clip
from avatar_gs.lab.metrics.colours import chroma
from avatar_gs.lab.metrics.scored_images import ScoredImages
from avatar_gs.lab.metrics.truth import BACKGROUND, cases, render_truth
from avatar_gs.lab.metrics.views import ORBITS, neutral_body, orbit, scored_views
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import clip_guidance, scores
from avatar_gs.lab.suites import suite as base
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.scores import ScoresJob, ScoresSuite
from avatar_gs.lab.suites.scores_figures import Look, Scores, ScoresRecord, Source, look, read_captions
from avatar_gs.prior.config import PromptConfig
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from avatar_gs.training.prompts import run_prompts
from tests.lab.metrics.test_clip import save_clip
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance

PROMPTS = 2


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> str:
    return str(save_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def truths() -> list[ScoredImages]:
    return [scored_images.person_images(case, scored_views()) for case in cases(PROMPTS)]


@pytest.fixture(scope="module")
def scorer() -> Clip:
    return load_clip("")


@pytest.fixture(scope="module")
def seen_truths(truths, scorer) -> list[Look]:
    return [look(record(Source.TRUTH, case), drawn, scorer) for case, drawn in enumerate(truths)]


def small_settings(clip: str, **options) -> LabSettings:
    """Avatars of two steps."""
    config = EvaluateConfig(scored_prompts=1, scored_seeds=1, pool=4, clip=clip)
    settings = lab_settings(
        stage="evaluate",
        suite=SuiteName.scores,
        guidance=plain_guidance(method="sds"),
        splats=SplatsConfig(count=300),
        density=DensityConfig(enabled=False),
        optimize=OptimizeConfig(steps=2, batch=1),
        evaluate=config,
    )
    return lab_settings(settings, **options)


# ---- views and images


def test_views_are_closed_orbits_and_poses_that_no_run_sees():
    seen, config = scored_views(), PromptConfig()
    standing, *others = seen.poses
    groups = seen.groups(config)
    assert len(groups) == len(seen.buckets(config)) == len(seen) == sum(len(stage.views) for stage in seen.poses)
    for framing in ORBITS:
        azimuths = np.rad2deg(standing.views.azimuth[orbit(framing)].numpy())
        steps = np.diff([*azimuths, azimuths[0] + 360])
        assert set(standing.views.framings[orbit(framing)]) == {framing} and np.allclose(steps, steps[0], atol=1e-3)
    assert all(not torch.allclose(stage.posed.joints, standing.posed.joints, atol=0.02) for stage in others)
    assert {group.split("/")[0] for group in groups[len(standing.views) :]} == {"new pose"}
    assert not (seen.inside & ~seen.bare).any() and not (seen.outside & seen.bare).any()


def test_images_come_back_from_their_file(truths):
    cells = np.split(truths[0].strip(), 3 * len(scored_views()), axis=1)
    back = ScoredImages.of_cells(cells, len(scored_views()))
    assert back.white is not None and truths[0].white is not None
    np.testing.assert_allclose(back.colour.on_grey(), truths[0].colour.on_grey(), atol=1 / 255)
    np.testing.assert_allclose(back.colour.alpha, truths[0].colour.alpha, atol=1 / 255)
    np.testing.assert_allclose(back.white, truths[0].white, atol=1 / 255)
    black = np.zeros((len(scored_views()), 3), np.float32)
    np.testing.assert_allclose(back.on(black), truths[0].colour.rgb.clip(0, 1), atol=2 / 255)


def test_white_people_have_shape_and_no_colour(truths):
    white, alpha = truths[0].white, truths[0].colour.alpha
    assert white is not None and float(chroma(white).max()) < 0.1 < 20 < float(chroma(truths[0].colour.rgb).max())
    assert white[alpha == 1].std() > 0.01 and np.allclose(white[alpha == 0], BACKGROUND, atol=1 / 255)


# ---- scores of what is known


def scores_of(looks: list[Look], clip: Clip, pool: int = 12) -> Scores:
    seen, config = scored_views(), PromptConfig()
    prompts = [case.prompt for case in cases(pool)]
    drawn = [render_truth(case, seen.poses[0]) for case in cases(PROMPTS)]
    captions = read_captions(prompts, seen.buckets(config), config, clip)
    return Scores(looks, captions, seen.groups(config), seen, drawn, clip, None)


def as_samples(one: Look, case: int, seed: int = 0) -> Look:
    """The same images as if the prior had drawn them."""
    drawn = ScoredImages(ViewImages(one.images.colour.on_grey(), np.ones_like(one.images.colour.alpha)), None)
    return replace(one, record=record(Source.SAMPLES, case, seed), images=drawn, white=None)


def record(source: Source, case: int, seed: int = 0) -> ScoresRecord:
    metrics = {"prior_calls": 0, "steps": 1}
    return ScoresRecord(source, case, cases(PROMPTS)[case].prompt, seed, metrics, 1.0)


def test_the_truth_is_found_and_another_person_is_not(truths, scorer, seen_truths):
    alpha = truths[0].colour.alpha
    grey = look(
        record(Source.START, 0), ScoredImages(ViewImages(0.5 * alpha[..., None].repeat(3, -1), alpha), None), scorer
    )
    looks = []
    for case, one in enumerate(seen_truths):
        looks += [replace(one, record=record(source, case)) for source in (Source.TRUTH, Source.CLIP)]
        looks += [replace(seen_truths[1 - case], record=record(Source.AVATAR, case))]
        looks += [as_samples(one, case), replace(grey, record=record(Source.START, case))]
    figures = scores_of(looks, scorer).figures()
    precision, right = figures["r_precision"], figures["right_parts"]
    assert precision[Source.TRUTH]["all"]["mean"] > 0.8 and precision[Source.AVATAR]["all"]["mean"] < 0.2
    assert right[Source.TRUTH]["mean"] == 1 and right[Source.AVATAR]["mean"] < 0.5 and right[Source.START]["mean"] < 0.5
    assert (
        figures["clip_score"][Source.TRUTH]["all"]["mean"] > figures["clip_score"][Source.AVATAR]["all"]["mean"] + 0.2
    )
    for row in ("saturation", "saturation_distance"):
        assert figures[row][Source.TRUTH]["mean"] == pytest.approx(0, abs=0.5)
    assert figures["saturation"][Source.START]["mean"] < -10
    assert figures["frechet"][Source.TRUTH]["mean"] < 0.1 * figures["frechet"][Source.START]["mean"]
    assert figures["kernel"][Source.TRUTH]["mean"] < 0.1 * figures["kernel"][Source.START]["mean"]
    assert figures["consistency"]["body"][Source.TRUTH]["n"] == PROMPTS
    assert figures["diversity"] == {} and Source.SAMPLES not in figures["r_precision_textureless"]
    assert precision[Source.TRUTH]["all"]["std"] is None, "one seed has no std"


def test_seeds_give_standard_deviation_diversity_and_a_floor(scorer, seen_truths):
    looks = []
    for seed, one in enumerate(seen_truths):
        looks += [replace(one, record=record(Source.AVATAR, 0, seed)), as_samples(one, 0, seed)]
        looks += [replace(seen_truths[0], record=record(Source.CLIP, 0, seed))]
    figures = scores_of(looks, scorer).figures()
    assert figures["diversity"][Source.CLIP]["mean"] == pytest.approx(0, abs=1e-6)
    assert figures["diversity"][Source.AVATAR]["mean"] > 0.1
    assert figures["r_precision"][Source.AVATAR]["all"]["std"] > 0.3
    assert figures["r_precision"][Source.CLIP]["all"]["std"] == 0
    assert figures["frechet"][Source.SAMPLES]["n"] == 1 and figures["frechet"][Source.SAMPLES]["mean"] > 0


# ---- CLIP guidance


def test_splats_climb_the_similarity(prior, clip_folder):
    clip = load_clip(clip_folder)
    settings = small_settings(clip_folder, prompt="a man in a red shirt", optimize=OptimizeConfig(steps=8, batch=1))
    seen: list[float] = []
    climb = clip_guidance.climb

    def remembered(state, scene, *rest):
        first = remembered.scene = getattr(remembered, "scene", scene)
        seen.append(climb(state, first, *rest))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_guidance, "climb", remembered)
        calls = prior.calls
        result = clip_guidance.optimize_by_similarity(
            settings, neutral_body("cpu"), prior, clip, run_prompts(settings.training, prior)
        )
    assert seen[-1] > seen[0] + 0.01 and len(seen) == 8
    assert prior.calls == calls and result.metrics["prior_calls"] == 0


# ---- the suite


def test_the_suite_reports_and_makes_nothing_twice(prior, clip_folder, tmp_path, monkeypatch, scorer):
    settings = small_settings(clip_folder)
    report = run_suite(settings, prior, tmp_path, ["stage=evaluate", "suite=scores"])
    results, text = json.loads((tmp_path / "results.json").read_text()), report.read_text()
    figures = results["figures"]
    assert figures["pool"] == 4 and len(figures["wrong_prompts"]) == 3 and len(figures["avatars"]) == len(Source)
    assert set(figures["r_precision"]) == {source.value for source in Source}
    assert all(0 <= row["all"]["mean"] <= 1 for row in figures["r_precision"].values())
    assert figures["right_parts"][Source.TRUTH]["mean"] == 1
    assert figures["lpips"] is None and "not given" in text and clip_folder in text
    assert (
        figures["costs"]["sources"][Source.AVATAR]["prior_calls"]
        > 0
        == figures["costs"]["sources"][Source.CLIP]["prior_calls"]
    )
    assert "evaluate.scored_prompts=12 evaluate.scored_seeds=5" in results["full_grid"]["command"]
    assert (tmp_path / "sheet.png").stat().st_size > 10_000

    def never(*_, **__):
        raise AssertionError("made twice")

    monkeypatch.setattr(base, "optimize", never)
    monkeypatch.setattr(scored_images, "person_images", never)
    monkeypatch.setattr(scores, "optimize_by_similarity", never)
    run_suite(settings, prior, tmp_path, [])
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == figures
    other = small_settings("")
    with pytest.raises(AssertionError, match="made twice"):  # another judge is climbed again, and only that
        run_suite(other, prior, tmp_path, [])


def test_keys_depend_on_what_images_depend_on(prior, clip_folder, tmp_path):
    case = cases(1)[0]

    def key(source, clip="", seed=0, **options):
        return ScoresSuite(small_settings(clip, **options), prior, tmp_path).key(ScoresJob(source, case, seed, 0))

    longer = OptimizeConfig(steps=3, batch=1)
    some = [key(source) for source in Source] + [key(Source.AVATAR, seed=1), key(Source.AVATAR, optimize=longer)]
    assert len(set(some)) == len(some)
    assert key(Source.AVATAR) == key(Source.AVATAR, clip=clip_folder, name="other")
    assert key(Source.CLIP) != key(Source.CLIP, clip=clip_folder)
    assert key(Source.TRUTH) == key(Source.TRUTH, seed=1, optimize=longer)
