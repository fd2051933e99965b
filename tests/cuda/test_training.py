"""Training on the device: densification, resuming, every method, shading, learned background, 16 bits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.io import load_state
from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.config import METHODS
from avatar_gs.guidance.presets import named_preset
from avatar_gs.prior.config import Precision, PriorConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.render.config import ShadingConfig
from avatar_gs.settings import Settings
from avatar_gs.splats.density import Refinement
from avatar_gs.training.config import Background, EnvironmentConfig, GeometryConfig, PoseMode
from avatar_gs.training.init import load_init
from avatar_gs.training.loop import Result, optimize
from avatar_gs.training.prompts import with_extra
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import Report, Trainer
from tests.cuda.conftest import MakePrior
from tests.cuda.devices import DEVICE, on_request, place
from tests.plain import plain_guidance
from tests.training.conftest import small_settings

PROMPT = "a man in red"


def train(settings: Settings, body: Body, prior: StableDiffusionPrior, **options: object) -> Result:
    prompts = bucket_prompts(PROMPT, "", settings.prior.prompts)
    source = bucket_prompts("a woman in blue", "", settings.prior.prompts) if settings.guidance.edits else None
    return optimize(settings.training, body, prior, with_extra(prompts, settings.training, source), **options)  # type: ignore


def check_avatar(result: Result, settings: Settings) -> None:
    """All values are finite and on the device, and no step was skipped."""
    assert result.metrics["steps"] == settings.optimize.steps and result.metrics["skipped_steps"] == 0
    for name, value in result.model.params.items():
        assert place(value) == torch.device(DEVICE).type and bool(value.isfinite().all()), name


@pytest.mark.parametrize("name", ["tiny", *(pytest.param(name, marks=on_request) for name in ("mini", "sd15", "sd21"))])
def test_twelve_steps_with_densification(body: Body, prior_of: MakePrior, name: str) -> None:
    settings = small_settings(poses=PoseMode.random)
    # half of the splats count as large, so that some of those that grow are split and others duplicated
    settings.density = replace(settings.density, grow_share=0.1, split_scale=1.0, prune_opacity=0.0999)
    settings.guidance = plain_guidance(method="de_sds")
    settings.guidance.de_sds.warmup = 0.1
    settings.splats.opacity = 0.1
    refinements: list[Refinement] = []
    result = train(settings, body, prior_of(name), on_step=lambda _, report: refinements.append(report.refinement))
    check_avatar(result, settings)
    done = [sum(getattr(each, what) for each in refinements) for what in ("duplicated", "split", "pruned")]
    assert all(done), f"duplicated, split, pruned: {done}"
    assert len(result.model) == settings.splats.count + done[0] + done[1] - done[2]


class Killed(Exception):
    pass


class Recorder:
    """Records the state after every step, and stops the run after step ``last``."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.states: dict[int, dict[str, Tensor]] = {}

    def __call__(self, state: TrainingState, report: Report) -> None:
        kept = {f"splats/{name}": value for name, value in state.model.tensors().items()}
        for name, optimizer in state.optimizers.items():
            for values in optimizer.state.values():
                kept |= {f"optim/{name}/{key}": value for key, value in values.items() if key.startswith("exp_avg")}
        kept |= {f"density/{name}": value for name, value in state.strategy.tensors().items()}
        kept |= {f"guidance/{name}": value for name, value in state.guidance.state_dict().items()}
        self.states[state.step] = {name: value.detach().clone().cpu() for name, value in kept.items()}
        if state.step == self.last:
            raise Killed


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """Relative norm of the difference of each tensor between two states."""
    assert first.keys() == second.keys()
    pairs = {name: (first[name].double(), second[name].double()) for name in first if first[name].is_floating_point()}
    return {name: float((a - b).norm() / a.norm().clamp(min=1e-12)) for name, (a, b) in pairs.items()}


def resumed_runs(settings: Settings, body: Body, prior: StableDiffusionPrior, folder: Path) -> Iterator[Recorder]:
    """The same run killed two steps after its checkpoint and resumed from it, twice."""
    for name in ("first", "second"):
        run, resumed = RunFolder(folder / name), Recorder(last=6)
        with pytest.raises(Killed):
            train(settings, body, prior, run=run, on_step=Recorder(last=7))
        torch.manual_seed(123)  # nothing may depend on torch's global generator
        with pytest.raises(Killed):
            train(settings, body, prior, run=run, on_step=resumed)
        assert list(resumed.states) == [6]
        yield resumed


@pytest.mark.parametrize("method", ["de_sds", pytest.param("vsd", marks=on_request)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    body: Body, prior_of: MakePrior, tmp_path: Path, method: str
) -> None:
    """Bit-exact on a CPU. On CUDA, atomics add in a different order in every run, so the step after the checkpoint is
    compared with a tolerance of ten times the difference between two uninterrupted runs, plus 1e-4. A state without one
    of Adam's moments or a statistic differs by tens of per cent."""
    settings = small_settings(checkpoint_every=5)
    settings.density = replace(
        settings.density, start=0.9, stop=1.0
    )  # no refinement, or the numbers of splats would differ
    settings.guidance = plain_guidance(method=method)
    settings.guidance.de_sds.warmup = 0.0
    prior = prior_of("tiny")
    unbroken, again = Recorder(last=6), Recorder(last=6)
    for recorder in (unbroken, again):
        with pytest.raises(Killed):
            train(settings, body, prior, on_step=recorder)
    noise = distance(unbroken.states[6], again.states[6])
    for resumed in resumed_runs(settings, body, prior, tmp_path):
        found = distance(unbroken.states[6], resumed.states[6])
        if DEVICE == "cpu":
            assert not any(found.values())
        assert all(found[name] <= 10 * noise[name] + 1e-4 for name in found), (found, noise)
    moved = distance(unbroken.states[5], unbroken.states[6])
    assert moved["splats/sh0"] > 1e-3, "a step changes more than the tolerance"


def test_a_checkpoint_is_restored_exactly(body: Body, prior_of: MakePrior, tmp_path: Path) -> None:
    """Saved, loaded onto the device, and saved again without a step in between, so that atomics play no part."""
    settings = small_settings(steps=4)
    settings.guidance = plain_guidance(method="de_sds")
    settings.guidance.de_sds.warmup = 0.0
    run, prior = RunFolder(tmp_path), prior_of("tiny")
    train(settings, body, prior, run=run)
    saved, again = run.avatar_checkpoint, tmp_path / "again.safetensors"
    prompts = with_extra(bucket_prompts(PROMPT, "", settings.prior.prompts), settings.training)
    state = Trainer.build(settings.training, body, prior, prompts).first_state(body)
    state.restore(saved, settings.training)
    assert {place(value) for value in state.model.params.values()} == {torch.device(DEVICE).type}
    state.save(again, settings.training)
    (before, facts), (after, same_facts) = load_state(saved), load_state(again)
    assert facts == same_facts and before.keys() == after.keys() and any(name.startswith("optim/") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)


@on_request
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.edits])
def test_every_method_takes_two_steps(body: Body, prior_of: MakePrior, method: str) -> None:
    settings = small_settings(steps=2)
    settings.guidance = named_preset(method)
    check_avatar(train(settings, body, prior_of("tiny")), settings)


@on_request
@pytest.mark.parametrize("method", ["dds", "pds"])
def test_every_editing_method_takes_two_steps(body: Body, prior_of: MakePrior, tmp_path: Path, method: str) -> None:
    run, prior, settings = RunFolder(tmp_path / "first"), prior_of("tiny"), small_settings(steps=2)
    train(settings, body, prior, run=run)
    run.record("optimize")
    settings.init, settings.guidance = str(run.path), named_preset(method)
    check_avatar(train(settings, body, prior, init=load_init(settings.training, body)), settings)


@pytest.mark.parametrize("name", ["tiny", pytest.param("mini", marks=on_request)])
def test_shading_a_learned_background_and_geometry_losses_train(body: Body, prior_of: MakePrior, name: str) -> None:
    settings = small_settings(
        steps=4,
        shading=ShadingConfig(probability=1.0, warmup=0.0),
        background=Background.learned,
        environment=EnvironmentConfig(width=8, octaves=1, random_share=0.0),
        geometry=GeometryConfig(orientation=0.5, transmittance=0.01),
        poses=PoseMode.random,
    )
    skies: list[Tensor] = []

    def look(state: TrainingState, _: Report) -> None:
        assert state.background is not None
        skies.append(torch.cat([value.flatten() for value in state.background.network.parameters()]).detach().clone())

    check_avatar(train(settings, body, prior_of(name), on_step=look), settings)
    assert place(skies[0]) == torch.device(DEVICE).type
    assert skies[-1].isfinite().all() and not torch.equal(skies[0], skies[-1]), "it has learned"


@on_request
def test_two_steps_in_16_bits(body: Body, tiny_folder: Path) -> None:
    precision = Precision.bfloat16 if DEVICE == "cpu" else Precision.float16
    prior = load_prior(PriorConfig(name="custom", path=str(tiny_folder), precision=precision), DEVICE)
    settings = small_settings(steps=2)
    settings.guidance = named_preset("de_sds")
    check_avatar(train(settings, body, prior), settings)
