"""Whole runs on a device that refuses what CUDA refuses (``tests.accelerator``), on any machine.

Each run is short and its networks are tiny: the aim is that every line of a training step, of refinement, previews,
checkpoints, embedding and export runs once with tensors that are not on the CPU.
"""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch

from avatar_gs.core import optim_state
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.config import ExportConfig
from avatar_gs.export.ply import read_ply
from avatar_gs.export.writer import export_avatar
from avatar_gs.guidance.config import METHODS
from avatar_gs.guidance.methods import base as residuals
from avatar_gs.guidance.methods.bridge import BridgeConfig
from avatar_gs.guidance.methods.de_sds import SmallNoise, Variant
from avatar_gs.guidance.presets import named_preset
from avatar_gs.guidance.schedule import ScheduleKind
from avatar_gs.identity import outfits
from avatar_gs.identity.config import Clothes, EmbedConfig
from avatar_gs.identity.cross_init import train_identity
from avatar_gs.identity.photos import PhotoSet
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.prior.vocabulary import Words
from avatar_gs.protocols import Describable
from avatar_gs.render.config import ShadingConfig
from avatar_gs.splats import density
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.stages.export import standing, turntable
from avatar_gs.training import rendering, state
from avatar_gs.training.config import Background, EnvironmentConfig, GeometryConfig, LossesConfig, PoseMode
from avatar_gs.training.init import InitAvatar
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import with_extra
from avatar_gs.training.step import Trainer
from tests import tiny
from tests.accelerator import Accelerator, on_device
from tests.training.conftest import small_settings

SD_METHODS = [method for method in METHODS if method != "none"]


@pytest.fixture
def accelerator():
    with Accelerator() as accelerator:
        yield accelerator


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny.parts(tmp_path_factory.mktemp("tiny"))


def prior_on(device, parts, words=None, **options):
    """A prior of its own on a device; the parts stay as they are."""
    compute = Compute(device=torch.device(device), **options)
    return StableDiffusionPrior(Parts(**copy.deepcopy(parts)), compute, words)


def settings_for(method="de_sds", **optimize):
    settings = small_settings(**({"steps": 3, "batch": 2} | optimize))
    settings.splats = SplatsConfig(count=300)
    settings.density = DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=2)
    settings.guidance = named_preset(method)
    return settings


def run(settings, prior, body, folder=None, *, on_step=None, prompt="a man in red"):
    """A run from the command's settings to its end; an edit begins with the grey body."""
    body = body.to(prior.device)
    prompts = bucket_prompts(prompt, "", settings.prior.prompts)
    prompts = with_extra(prompts, settings.training, prompts if settings.guidance.edits else None)
    initial = None
    if settings.guidance.edits:
        plain = replace(settings, guidance=named_preset("sds"))
        first = Trainer.build(plain.training, body, prior, prompts).first_state(body)
        initial = InitAvatar(first.model, first.strategy.unit, "0" * 16)
    return optimize(settings.training, body, prior, prompts, folder, init=initial, on_step=on_step)


def everything(**optimize):
    """Settings under which a step does all that it can do."""
    settings = settings_for(
        steps=8,
        supersample=2,
        poses=PoseMode.random,
        preview_every=3,
        checkpoint_every=3,
        surface_every=2,
        tensorboard=True,
        losses=LossesConfig(opacity=0.01, haze=0.01),
        geometry=GeometryConfig(orientation=0.5, transmittance=0.01),
        shading=ShadingConfig(probability=0.7, textureless=0.4, warmup=0.0),
        background=Background.learned,
        environment=EnvironmentConfig(random_share=0.3, width=8, octaves=1),
        **optimize,
    )
    settings.density = replace(settings.density, every=2, grow_share=0.2, split_scale=1.0, prune_distance=0.02)
    settings.guidance = replace(settings.guidance, inner_steps=2, dynamic_threshold=0.99, clip=1.0)
    return settings


def tensors_of(state):
    """All tensors that a run keeps, but for Adam's step counts and running means of logs, which torch and we keep on
    the CPU."""
    adam = [
        moment for o in state.optimizers.values() for s in o.state.values() for k, moment in s.items() if k != "step"
    ]
    smoothing, density = state.smoother.tensors().values(), state.strategy.tensors().values()
    return [*state.model.params.values(), *adam, *smoothing, *density]


def test_all_that_a_run_does(accelerator, parts, body, tmp_path):
    """Lights, both backgrounds, random poses, duplicates, halves, pruning, sheets, checkpoints, scalars; and the run
    resumes to the bytes of an unbroken one."""
    refinements = []

    def watch(state, report):
        assert all(map(on_device, tensors_of(state)))
        refinements.append(report.refinement)

    class Killed(Exception):
        pass

    def kill(state, report):
        if state.step == 5:
            raise Killed

    prior, settings = prior_on("cuda", parts), everything()
    whole = run(settings, prior, body, RunFolder(tmp_path / "whole"), on_step=watch).model
    assert sum(r.duplicated for r in refinements) > 0 < sum(r.split for r in refinements)
    assert sum(r.pruned for r in refinements) > 0
    assert len(list((tmp_path / "whole" / "previews").iterdir())) == 2
    with pytest.raises(Killed):
        run(settings, prior, body, RunFolder(tmp_path / "halves"), on_step=kill)
    steps = []
    resumed = run(
        settings, prior, body, RunFolder(tmp_path / "halves"), on_step=lambda state, _: steps.append(state.step)
    ).model
    assert steps == [4, 5, 6, 7, 8]
    assert all(map(on_device, resumed.params.values()))
    for name, value in whole.params.items():
        assert torch.equal(resumed.params[name], value), name


def test_the_accelerator_computes_what_the_cpu_does(parts, body):
    settings = settings_for()
    with Accelerator():
        there = run(settings, prior_on("cuda", parts), body).model.to("cpu")
    here = run(settings, prior_on("cpu", parts), body).model
    assert len(there) == len(here)
    torch.testing.assert_close(there.params["means"], here.params["means"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", SD_METHODS)
def test_every_method(accelerator, parts, body, method):
    settings = settings_for(method, steps=2, batch=1)
    if method == "robust_nfsd":
        settings.guidance = replace(
            settings.guidance, robust_nfsd=replace(settings.guidance.robust_nfsd, warmup_steps=1)
        )
    seen = []
    result = run(settings, prior_on("cuda", parts), body, on_step=lambda state, report: seen.append(report))
    assert len(seen) == 2 and all(map(on_device, result.model.params.values()))
    assert all(on_device(report.distilled.grad) and report.distilled.grad.isfinite().all() for report in seen)


OPTIONS = {
    "the leak of y_con's loss": {"variant": Variant.seed},
    "y_con where there is little noise": {"small_noise": SmallNoise.con},
    "y_con every second step": {"update_every": 2, "noise_share": 0.5},
    "y_con ahead of the run": {"warmup": 0.5},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_de_sds(accelerator, parts, body, name):
    settings = settings_for(steps=2, batch=2)
    schedule = replace(settings.guidance.schedule, kind=ScheduleKind.uniform, t_min=0.1, t_max=0.3)
    settings.guidance = replace(
        settings.guidance, schedule=schedule, de_sds=replace(settings.guidance.de_sds, **OPTIONS[name])
    )
    run(settings, prior_on("cuda", parts), body)


def test_options_of_every_method(accelerator, parts, body):
    """Bridge, Perp-Neg, a decoded distance, CFG rescaled, and a prior with every memory saving."""
    settings = settings_for("hifa", steps=3, batch=2)
    settings.guidance = replace(
        settings.guidance, bridge=BridgeConfig(start=0.5), perp_neg=1.0, rgb_weight=0.1, cfg_rescale=0.5
    )
    saving = {"encode_chunk": 1, "checkpoint_encoder": True, "predict_chunk": 1, "offload_text": True}
    run(settings, prior_on("cuda", parts, **saving), body)
    settings.guidance = replace(named_preset("l_diff"), inner_steps=3)
    run(settings, prior_on("cuda", parts, **saving), body)


FEW_WORDS = Describable(
    person=("a man", "a woman"), looks={"hair": ("red hair", "blue hair")}, clothes={"hat": ("", "a green hat")}
)


def test_a_person_is_learned_asked_for_and_exported(accelerator, parts, body, tmp_path, monkeypatch):
    for name, value in {"OWN": 1, "OTHERS": 1, "STEPS": 2}.items():
        monkeypatch.setattr(outfits, name, value)
    prior = prior_on("cuda", parts, Words(describable=FEW_WORDS))
    images = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=torch.Generator().manual_seed(0))
    photos = PhotoSet(images, ("a", "b"), ("0", "1"))
    for clothes in (Clothes.free, Clothes.bound):
        config = EmbedConfig(steps=2, batch=2, tokens=2, checkpoint_every=1, clothes=clothes)
        learned = train_identity(prior, photos, config, folder=tmp_path / clothes.name, key="a")
        assert not on_device(learned.vectors), "it goes into a file"
        again = train_identity(prior, photos, replace(config, steps=3), folder=tmp_path / clothes.name, key="a")
        assert again.vectors.shape == learned.vectors.shape
    prior = prior.with_identity(learned.vectors)
    settings = settings_for(steps=2, batch=1)
    settings.guidance = replace(settings.guidance, de_sds=replace(settings.guidance.de_sds, variant=Variant.composed))
    settings.identity = "anna.safetensors"
    settings.prompt = "<id> in red"
    model = run(settings, prior, body, prompt="<id> in red").model
    gaussians, posed = standing(model, body.to("cuda"))
    config = ExportConfig(video_size=64, video_seconds=0.5, video_fps=4)
    files = export_avatar(tmp_path, gaussians, "anna", config, turntable(gaussians, posed, config))
    assert {"avatar.html"} <= {file.name for file in files}
    (ply,) = [file for file in files if file.suffix == ".ply"]
    assert len(read_ply(ply)) == len(gaussians)
    pose = torch.rand(1, prior.image_size, prior.image_size, 3).to(prior.device)
    assert on_device(prior.sample(["a man"], [""], pose, steps=2, generator=torch.Generator(), pose_scale=1.5))


@torch.no_grad()
def bounds_on_the_cpu(model):
    model.params["scales"].clamp_(torch.tensor(model.min_scale).log(), torch.tensor(model.max_scale).log())


def a_generator_of_the_cpu(prior, z, t, generators):
    return residuals.with_noise(prior, z, t, torch.randn(z.shape, generator=generators[0], device=z.device))


def numpy_of_splats(means, sizes, reach):
    return torch.from_numpy(means.detach().numpy()[:, 0] > reach)


@torch.no_grad()
def sums_on_the_cpu(strategy, info):
    strategy.running["grad2d"] = torch.zeros(info["radii"].shape[1])
    strategy.running["grad2d"].index_add_(0, info["radii"][0, :, 0].argsort(), info["means2d"].grad[0].norm(dim=-1))


def a_mask_on_the_cpu(values, count):
    return torch.arange(len(values)) < count


def moments_on_the_cpu(optimizers, tensors):
    for name, adam in optimizers.items():
        (parameter,) = adam.param_groups[0]["params"]
        adam.state[parameter] = {key: tensors[f"{name}/{key}"].clone() for key in optim_state.MOMENTS}


PLANTED = {
    "the first step's": (GaussianModel, "constrain", bounds_on_the_cpu),
    "a generator": (residuals, "independent", a_generator_of_the_cpu),
    "numpy": (density, "detached_splats", numpy_of_splats),
    "index_add_": (density.DistillationStrategy, "accumulate", sums_on_the_cpu),
    "a mask": (density, "largest", a_mask_on_the_cpu),
    "where": (rendering, "outward_normals", lambda model, splats: torch.where(splats.means > 0, torch.ones(1, 3), 1.0)),
    "a resumed optimiser": (state, "load_optimizer_states", moments_on_the_cpu),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_noticed(accelerator, parts, body, tmp_path, monkeypatch, name):
    """A run on the CPU passes over each of them; none would pass on CUDA."""
    settings, prior = settings_for("sds", steps=2, batch=1), prior_on("cuda", parts)
    settings.optimize.shading = ShadingConfig(probability=1.0, warmup=0.0)
    folder = RunFolder(tmp_path / "run")
    if name == "a resumed optimiser":
        settings.optimize.checkpoint_every = 1
        with pytest.raises(StopIteration):
            run(settings, prior, body, folder, on_step=lambda *arguments: next(iter(())))
    monkeypatch.setattr(*PLANTED[name])
    with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|Tensor\.cpu"):
        run(settings, prior, body, folder)
    monkeypatch.undo()


@pytest.mark.parametrize("recipe", ["mini", "sd15"])
def test_the_host_waits_at_most_eight_times_a_step(parts, body, resolve, recipe):
    """The whole recipe but for its number of steps and splats, between refinements, previews and checkpoints: what the
    host waits for is queued work, and meanwhile queues none."""
    words = [] if recipe == "mini" else [f"experiment={recipe}", "prior.path=."]
    settings = resolve(
        "prompt='a man in red'", *words, "splats.count=300", "optimize.steps=10", "optimize.preview_every=0"
    )
    assert settings.density.every > settings.optimize.steps
    counts = []
    with Accelerator() as accelerator:

        def count(state, report):
            counts.append(Counter(accelerator.waits))
            accelerator.waits.clear()

        run(settings, prior_on("cuda", parts), body, on_step=count)
    between = counts[1:]  # before the first step prompts are encoded and the scene is not prepared ahead
    assert all(0 < sum(waits.values()) <= 8 for waits in between), between
