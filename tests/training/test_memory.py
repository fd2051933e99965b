"""What a step holds is gone when it ends, and a step that runs out of memory is taken again with less at once."""

import gc
import logging
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.methods.bridge import BridgeConfig
from avatar_gs.guidance.methods.de_sds import Variant
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.memory_guard import MemoryGuard
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.render.config import ShadingConfig
from avatar_gs.training.config import Background
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import with_extra
from avatar_gs.training.scene import Scenes
from avatar_gs.training.step import Trainer
from tests.tiny import save_prior
from tests.training.conftest import small_settings


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return PriorConfig(name="custom", path=str(save_prior(tmp_path_factory.mktemp("prior") / "tiny")))


class Saved:
    """Counts bytes of tensors that autograd keeps for a backward pass: ``now``, and the ``peak`` so far."""

    def __init__(self):
        self.now = self.peak = 0

    def pack(self, tensor: Tensor):
        class Kept:
            value = tensor.detach()  # an output that is kept would hold its own graph

        kept, size = Kept(), tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(kept, self._free, size)
        return kept

    def _free(self, size):
        self.now -= size

    def hooks(self):
        return saved_tensors_hooks(self.pack, lambda kept: kept.value)


def with_graph():
    """All tensors that hold a graph."""
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor) and thing.grad_fn is not None]


def run_settings(method="de_sds", **changes):
    settings = small_settings(steps=8, **changes)
    settings.guidance.method = method
    settings.guidance.de_sds.warmup = 0.0
    return settings


def warming():
    settings = run_settings()
    settings.guidance.de_sds.warmup = 0.9
    return settings


def refitted():
    settings = run_settings()
    settings.guidance.inner_steps = 3
    return settings


def hifa():
    settings = run_settings("hifa")
    settings.guidance.rgb_weight = 0.1
    return settings


def seed_variant():
    settings = run_settings()
    settings.guidance.de_sds.variant = Variant.seed
    return settings


def bridged():
    settings = run_settings("sds")
    settings.guidance.bridge = BridgeConfig(start=0.0)
    return settings


def lit():
    shading = ShadingConfig(probability=1.0, warmup=0.0)
    return run_settings(background=Background.learned, shading=shading)


RUNS = {
    "warm-up": warming,
    "ordinary": run_settings,
    "refit": refitted,
    "editing": lambda: run_settings("dds"),
    "vsd": lambda: run_settings("vsd"),
    "hifa": hifa,
    "seed": seed_variant,
    "l_diff": lambda: run_settings("l_diff"),
    "bridge": bridged,
    "lit": lit,
}


def steps_of(settings, body, prior, count):
    """Reports of the first steps, one by one; the same scene in each, so that they cost the same."""
    config, prompts = settings.training, bucket_prompts("a man in red", "", settings.prior.prompts)
    prompts = with_extra(prompts, config, prompts if config.guidance.edits else None)
    trainer = Trainer.build(config, body, prior, prompts)
    state = trainer.first_state(body)
    if config.guidance.edits:
        trainer = replace(trainer, source=state.model)
    scene = Scenes(body, config, prior.image_size).make(0)
    for _ in range(count):
        yield trainer.step(state, scene)


@pytest.mark.parametrize("run", RUNS)
def test_no_autograd_graph_remains_after_a_step(run, body, config):
    """Neither tensors that autograd has kept nor one with a graph are left, also while the report is held; and the next
    step's peak is this one's."""
    settings, prior = RUNS[run](), load_prior(config)
    settings.density.enabled = False
    before, saved, peaks = len(with_graph()), Saved(), []
    steps = steps_of(settings, body, prior, 3)
    for _ in range(3):
        with saved.hooks():
            report = next(steps)
        assert saved.now == 0, "kept for a backward pass that will never come"
        assert not report.render.rgb.requires_grad and not report.distilled.loss.requires_grad
        peaks.append(saved.peak)
        saved.peak = 0
    assert len(with_graph()) == before
    assert peaks[0] > 0 and peaks[1] == peaks[2]


def test_the_encoder_builds_no_graph_during_the_warm_up(body, config, monkeypatch):
    """Nothing goes backward into the images then."""
    prior, seen = load_prior(config), []
    encode = StableDiffusionPrior.encode_images
    monkeypatch.setattr(
        StableDiffusionPrior,
        "encode_images",
        lambda self, images: seen.append(images.requires_grad) or encode(self, images),
    )
    settings = run_settings()
    settings.guidance.de_sds.warmup = 0.25  # two of eight steps
    list(steps_of(settings, body, prior, 4))
    assert seen == [False, False, True, True]


def cramped(config, where="predictions", error=torch.OutOfMemoryError):
    """A prior that runs out of memory where a call of a network sees more than ``fits`` images: in ``predictions``, in
    the backward pass that y_con is ``learning`` from, or in that through the ``encoder``."""
    prior: Any = load_prior(config)
    prior.fits = 1
    call, encode = prior.denoiser.call, prior.codec.encode

    def no_memory(*gradients):
        raise error("CUDA out of memory. Tried to allocate 2.00 GiB")

    def cramped_call(z_t, *others):
        if where == "predictions" and len(z_t) > prior.fits:
            no_memory()
        output = call(z_t, *others)
        if where == "learning" and output.requires_grad and len(z_t) > prior.fits:
            output.register_hook(no_memory)
        return output

    def cramped_encode(images):
        latents = encode(images)
        size = prior.codec.encode_chunk or len(images)
        if where == "encoder" and latents.requires_grad and size > prior.fits:
            latents.register_hook(no_memory)
        return latents

    prior.denoiser.call, prior.codec.encode = cramped_call, cramped_encode
    return prior


def made(settings, body, prior, run=None, **more):
    return optimize(
        settings.training, body, prior, bucket_prompts("a man in red", "", settings.prior.prompts), run, **more
    )


def assert_same(first, second):
    assert len(first.model) == len(second.model)
    for name, value in first.model.params.items():
        other = second.model.params[name]
        near = torch.isclose(value, other, atol=3e-4, rtol=1e-3)
        # Adam turns a gradient of the size of rounding errors into a step of its learning rate
        assert near.float().mean() > 0.99 and (value - other).abs().max() < 0.05, name


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("predictions", torch.OutOfMemoryError),
        ("learning", torch.OutOfMemoryError),
        (
            "encoder",
            lambda _: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes."),
        ),
    ],
)
def test_a_run_out_of_memory_continues_with_smaller_chunks_to_the_same_result(body, config, caplog, where, error):
    """As with those chunks from the start: y_con learns once a step, and the noise is the same."""
    settings = run_settings(batch=3)
    settings.guidance.de_sds.warmup = 0.0 if where == "learning" else 0.25  # y_con is watched after it
    settings.guidance.inner_steps = 2
    learned, results = [], []
    for prior in (
        load_prior(replace(config, encode_chunk=1, predict_chunk=1)),
        cramped(config, where=where, error=error),
    ):
        states = []
        with caplog.at_level(logging.WARNING):
            results.append(made(settings, body, prior, on_step=lambda state, _, states=states: states.append(state)))
        learned.append(states[-1].guidance.state_dict())
    assert_same(*results)
    assert results[0].metrics["prior_calls"] == results[1].metrics["prior_calls"]
    assert learned[0]["watches"] == learned[1]["watches"] > 0
    for name, value in learned[0].items():
        torch.testing.assert_close(value, learned[1][name], atol=1e-5, rtol=1e-3)
    lines = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert len(lines) == 1 and "prior.encode_chunk=1 prior.predict_chunk=1" in lines[0]


def test_a_run_that_cannot_fit_ends_with_one_line_and_keeps_its_checkpoint(body, config, tmp_path, caplog):
    """After one image a call and an encoder computed twice."""
    settings, run = run_settings(batch=4, checkpoint_every=2), RunFolder(tmp_path)
    prior = cramped(config)
    prior.fits = 8

    def less(state, report):
        if state.step == 3:
            prior.fits = 0

    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"one image per call.*optimize\.batch"):
        made(settings, body, prior, run, on_step=less)
    lines = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert [line.split("going on with ")[1].split(",")[0] for line in lines] == [
        "prior.encode_chunk=2 prior.predict_chunk=2",
        "prior.encode_chunk=1 prior.predict_chunk=1",
        "prior.encode_chunk=1 prior.predict_chunk=1 prior.checkpoint_encoder=true",
    ]
    steps = []
    again = made(settings, body, load_prior(config), run, on_step=lambda state, _: steps.append(state.step))
    assert steps == list(range(3, 9))
    assert_same(again, made(settings, body, load_prior(config)))


def test_a_preview_out_of_memory_is_repeated_with_smaller_chunks(body, config, tmp_path, monkeypatch):
    decoded = []

    prior = load_prior(config)
    decode = prior.codec.decode

    def decode_part(latents):
        decoded.append(prior.codec.encode_chunk)
        if not prior.codec.encode_chunk:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(latents)

    prior.codec.decode = decode_part
    made(run_settings(preview_every=8), body, prior, RunFolder(tmp_path))
    assert decoded == [0, 1] and len(list((tmp_path / "previews").iterdir())) == 1


def test_other_errors_and_priors_are_not_retried(config):
    calls = []

    def fail(error):
        calls.append(error)
        raise error

    guard = MemoryGuard(load_prior(config), 4, "less")
    with pytest.raises(RuntimeError, match="shapes"):
        guard(lambda: fail(RuntimeError("shapes differ")))
    with pytest.raises(torch.OutOfMemoryError):
        MemoryGuard(object(), 4, "less")(lambda: fail(torch.OutOfMemoryError("CUDA out of memory")))
    assert len(calls) == 2


def test_a_failed_call_frees_its_memory_before_the_retry(config):
    """The error's frames hold the graph of the failed call; they are gone before the second try."""
    alive, kept = [], []

    def work():
        gc.collect()
        alive.append(sum(reference() is not None for reference in kept))
        big = torch.zeros(1000, requires_grad=True) * 2
        kept.append(weakref.ref(big))
        if len(kept) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(kept)

    assert MemoryGuard(load_prior(config), 4, "less")(work) == 2
    assert alive == [0, 0]
