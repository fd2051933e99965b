"""suite=claims: verdicts on made-up numbers both ways, the plane of points in closed form, and the suite from end to
end with a prior and a scorer of random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.presets import fitted, named_preset
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import claims, plane
from avatar_gs.lab.suites.claim_list import (
    CLAIMS,
    ClaimsRecord,
    Condition,
    RecordsByRecipe,
    Verdict,
    chosen_claims,
    sharpness,
    verdict,
)
from avatar_gs.lab.suites.claim_recipes import TOY, recipes
from avatar_gs.lab.suites.claims import ClaimsSuite
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.suite import Job
from tests.lab.settings import lab_settings
from tests.tiny import IMAGE_SIZE


def small_settings(*claims: str) -> LabSettings:
    return lab_settings(
        stage="evaluate", suite=SuiteName.claims, evaluate=EvaluateConfig(claims=list(claims), claim_steps=10)
    )


# ---- verdicts


def test_a_condition_holds_with_all_seeds_fails_with_none_and_is_open_between():
    assert Condition("", (0.5, 0.6, 0.8), high=0.8).holds() is True
    assert Condition("", (0.9, 1.0, 1.1), high=0.8).holds() is False
    assert Condition("", (0.7, 1.0, 1.1), high=0.8).holds() is None
    between = Condition("", (0.5, 1.0, 3.0), low=0.8, high=2.0)
    assert between.holds() is None and between.needed == "≥ 0.8 and ≤ 2"
    assert Condition("", (float("nan"),) * 3, low=0.0).holds() is False
    assert not Condition("", (1.0,)).judged and Condition("", (1.0,)).needed == "(for comparison)"


def test_a_claim_is_confirmed_by_all_conditions_and_refuted_by_one():
    yes, no = Condition("", (1.0, 2.0), low=0.5), Condition("", (1.0, 2.0), low=5.0)
    open_, seen = Condition("", (1.0, 2.0), low=1.5), Condition("", (9.0, 9.0))
    assert verdict([yes, seen]) is Verdict.CONFIRMED
    assert verdict([yes, open_]) is Verdict.UNDECIDED
    assert verdict([yes, open_, no]) is Verdict.NOT_CONFIRMED
    with pytest.raises(ValueError, match="a range"):
        verdict([seen])


# ---- what claims make of records

SAMPLED = {"sharpness": 1.0, "chroma": 20.0, "likeness": 0.8, "grey_likeness": 0.2}


def record(recipe: str, seed: int, feature=(1.0, 0.0), **changes: float) -> ClaimsRecord:
    return ClaimsRecord(recipe, seed, "a man", SAMPLED | {"distance": 1.0} | changes, [list(feature)], 0, 1.0)


def records_of(**changed: dict[str, float]) -> RecordsByRecipe:
    """Three seeds of every recipe, as the samples are but for ``changed``."""
    known = recipes()
    return RecordsByRecipe([record(name, seed, **changed.get(name, {})) for name in known for seed in range(3)], known)


def test_figures_are_read_next_to_the_samples_of_the_same_type():
    some = records_of(samples={"sharpness": 4.0}, sds={"sharpness": 1.0, "chroma": 27.0, "likeness": 0.5})
    assert some.fraction("sharpness", "sds") == (0.25,) * 3
    assert some.excess("chroma", "sds") == (7.0,) * 3
    assert some.score("sds") == pytest.approx([0.5] * 3)
    unlike = records_of(samples={"likeness": 0.1}).score("sds")
    assert all(value != value for value in unlike), "samples that say nothing are no measure"
    assert some.fraction("sharpness", "sds_free") == (1.0,) * 3, "together with those without ControlNet"


def test_seeds_are_as_far_apart_as_their_images():
    known = recipes()
    alike = [record("sds_modes", seed) for seed in range(3)]
    apart = [record("de_sds_modes", seed, np.eye(3)[seed]) for seed in range(3)]
    samples = [record("samples_ambiguous", seed, np.eye(3)[seed]) for seed in range(3)]
    some = RecordsByRecipe([*alike, *apart, *samples], known)
    assert some.apart("sds_modes") == (0.0,) * 3 and some.apart("de_sds_modes") == pytest.approx((1.0,) * 3)


@pytest.mark.parametrize(
    ("claim", "yes", "no"),
    [
        ("smooth", {"sds_free": {"sharpness": 0.5}}, {"sds_free": {"sharpness": 1.5}}),
        ("saturated", {"sds_100": {"chroma": 40.0}}, {"sds_100": {"chroma": 21.0}}),
        ("sharp", {"sds_free": {"sharpness": 0.5}}, {"nfsd_free": {"sharpness": 9.0}}),
        ("robust", {"ehc": {"likeness": 0.2}}, {"ehc_robust": {"likeness": 0.2}}),
        ("uncontrolled", {"nfsd": {"likeness": 0.3}}, {"nfsd": {"likeness": 0.8}}),
        ("saddle", {"ehl_zero": {"distance": 0.0}}, {"ehl_zero": {"distance": 0.3}}),
        ("amplified", {"annealed_fewer": {"likeness": 0.4}}, {"annealed_refit": {"likeness": 0.4}}),
    ],
)
def test_claims_can_be_confirmed_and_refuted(claim, yes, no):
    assert verdict(CLAIMS[claim].check(records_of(**yes))) is Verdict.CONFIRMED
    assert verdict(CLAIMS[claim].check(records_of(**no))) is Verdict.NOT_CONFIRMED


def test_claims_need_no_recipe_that_they_do_not_name():
    known = recipes()
    plane_figures = {f"{m}_{name}": 1.0 for m in plane.METHODS for name in ("spread", "outside", "move")}
    for claim in CLAIMS.values():
        features = dict(zip(range(3), np.eye(3), strict=True))
        some = [record(name, seed, features[seed], **plane_figures) for name in claim.recipes for seed in range(3)]
        assert any(condition.judged for condition in claim.check(RecordsByRecipe(some, known)))
        references = {known[name].reference for name in claim.recipes if known[name].guidance and claim.statement}
        assert references & set(claim.recipes) or claim in (CLAIMS["saddle"], CLAIMS["minimal"])


def test_unknown_claims_are_refused_in_one_line():
    assert list(chosen_claims(["sharp", "smooth"])) == ["smooth", "sharp"] and chosen_claims([]) == CLAIMS
    with pytest.raises(UserError, match=r"evaluate\.claims: no claim is called janus; expected some of smooth"):
        chosen_claims(["janus"])


def test_sharpness_falls_with_blur_and_rises_with_noise():
    rng = np.random.default_rng(0)
    image = np.zeros((16, 16, 3))
    image[:, 8:] = 1.0
    blurred = (image + np.roll(image, 1, 1) + np.roll(image, -1, 1)) / 3
    noisy = image + rng.normal(0, 0.3, image.shape)
    assert sharpness(np.ones((8, 8, 3))) == pytest.approx(0, abs=1e-20)
    assert sharpness(blurred) < sharpness(image) < sharpness(noisy)


# ---- the plane of points


def test_the_planes_noise_prediction_is_the_score_of_the_noised_mixture():
    prior, t = plane.PlanePrior(), torch.tensor([100, 500, 900])
    z_t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    alpha, sigma = prior.alpha(t), prior.sigma(t)
    for prompt in ("source", "target", ""):
        modes = plane.centres(prompt)
        variance = (alpha**2 * plane.TAU**2 + sigma**2)[:, None]
        away = (z_t[:, None] - alpha[:, None, None] * modes).square().sum(-1)
        density = torch.logsumexp(-away / (2 * variance), 1).sum()
        (score,) = torch.autograd.grad(density, z_t)
        eps = prior.eps(z_t.detach()[..., None, None], t, modes.expand(3, 4, 2), None)
        torch.testing.assert_close(eps[..., 0, 0], -sigma[:, None] * score)


def test_densities_are_of_mass_one():
    axis = torch.linspace(-4, 4, 201)
    grid = torch.cartesian_prod(axis, axis)
    for prompt in ("source", ""):
        mass = plane.log_density(grid, prompt).exp().sum() * float(axis[1] - axis[0]) ** 2
        assert float(mass) == pytest.approx(1.0, abs=1e-3)


def test_a_source_that_is_carried_over_is_within_the_target():
    random = torch.Generator().manual_seed(0)
    start = plane.samples("source", 400, random)
    carried = plane.measure(start, start + torch.tensor([2.0, 0.0]), random)
    assert carried.move == pytest.approx(2.0) and carried.outside < 0.05 and carried.spread == pytest.approx(1, abs=0.1)
    heap = plane.measure(start, torch.tensor([[1.0, 0.6]]).repeat(400, 1), random)
    assert heap.spread == 0 and heap.outside == 0
    assert plane.measure(start, start, random).outside > 0.95


def test_points_move_towards_the_target_and_the_same_seed_moves_them_alike():
    start = plane.samples("source", 12, torch.Generator().manual_seed(1))
    ends = {method: plane.edit(method, start, seed=0, steps=60) for method in plane.METHODS}
    assert all(float(end[:, 0].mean() - start[:, 0].mean()) > 0.5 for end in ends.values())
    assert torch.equal(plane.edit("pds", start, seed=0, steps=60), ends["pds"])
    sds, dds = (float(plane.deviation(ends[method])) for method in ("sds", "dds"))
    assert sds < dds, "DDS keeps the points apart"


# ---- recipes and the suite


def test_recipes_are_what_they_say():
    known = recipes()
    of = {name: recipe.guidance for name, recipe in known.items() if recipe.guidance is not None}
    assert of["sds_100"] == replace(of["sds"], cfg_scale=100.0)
    assert of["sds"].cfg_scale == of["nfsd"].cfg_scale == 7.5
    assert of["sds_modes"].cfg_scale == of["de_sds_modes"].cfg_scale + 1
    assert of["annealed_refit"].inner_steps * known["annealed_refit"].fraction == pytest.approx(1)
    assert not known["nfsd_free"].control and known["nfsd"].control
    robust = named_preset("robust_nfsd")
    assert fitted(robust, 500) == robust and fitted(robust, 100).robust_nfsd.warmup_steps == 60


def test_claims_are_checked_reported_and_no_run_is_made_twice(prior, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "load_scorer", lambda: scorer)
    monkeypatch.setattr(plane, "STEPS", 5)
    monkeypatch.setattr(plane, "POINTS", 8)
    settings, arguments = small_settings("saddle", "modes", "minimal"), ["stage=evaluate", "suite=claims"]
    text = run_suite(settings, prior, tmp_path, arguments).read_text()
    results = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert set(results["claims"]) == {"modes", "saddle", "minimal"}
    known = [row["values"] for row in results["claims"]["saddle"]["conditions"]]
    assert known[0] == [0.0] * 3 and min(known[2]) > 0, "zero is a saddle of any hash grid, and of no pixels"
    assert all(len(row["values"]) == 3 for claim in results["claims"].values() for row in claim["conditions"])
    assert results["recipes"]["samples_ambiguous"]["prior_calls"][0] == 2 * 20 * claims.SAMPLES
    for claim in results["claims"].values():
        assert f"| {claim['statement']} | **{claim['verdict']}** |" in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 128 and sheet.height > 8 * 128
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(kept) == 2 * 3 * 8
    run_suite(settings, prior, tmp_path, arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == kept
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == results


def test_an_interrupted_run_is_made_again_and_the_others_are_kept(prior, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "load_scorer", lambda: scorer)
    made, play = [], claims.play

    def interrupted(*arguments):
        result = play(*arguments)
        made.append(result)
        result.interrupted = len(made) == 2
        return result

    monkeypatch.setattr(claims, "play", interrupted)
    settings = small_settings("saddle")
    with pytest.raises(KeyboardInterrupt):
        run_suite(settings, prior, tmp_path, [])
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1 and not (tmp_path / "results.json").exists()
    run_suite(settings, prior, tmp_path, [])
    assert len(made) == 2 + 8, "nine runs, one of them twice"


def test_keys_depend_on_what_results_depend_on(prior, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "load_scorer", lambda: scorer)

    def key(recipe="sds", seed=0, index=0, steps=10, negative=""):
        settings = small_settings()
        settings.negative_prompt, settings.lab.evaluate.claim_steps = negative, steps
        return ClaimsSuite(settings, prior, tmp_path).key(Job(recipe, index, seed))

    assert len({key(), key("sds_100"), key(seed=1), key(index=1), key(steps=20), key(negative="grey")}) == 6
    assert key(TOY) == key(TOY, index=1, steps=20)


def test_images_of_a_recipe_are_of_its_own_view(prior, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "load_scorer", lambda: scorer)
    suite = ClaimsSuite(small_settings(), prior, tmp_path)
    made, strip = suite.make(Job("samples", 0, 0))
    assert strip.shape == (IMAGE_SIZE, IMAGE_SIZE * claims.SAMPLES, 3) and len(made.features) == claims.SAMPLES
    free, _ = suite.make(Job("samples_free", 0, 0))
    assert free.prompt == made.prompt and free.figures != made.figures, "the pose map is heard"
