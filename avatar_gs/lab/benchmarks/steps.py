"""Times whole optimisation steps compared with the cost of the prior's evaluations alone.

The floor of a step is the time of its UNet, ControlNet and VAE: every recorded evaluation of a step is repeated alone,
with the same backward pass and tensors, in whole batches and without recomputation. Steps and floors alternate, so that
other load affects both alike.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.body.model import Body
from avatar_gs.core.errors import UserError
from avatar_gs.prior.prompts import BucketPrompt, bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.render.rasterize import rasterize
from avatar_gs.settings import Settings
from avatar_gs.splats.density import Refinement
from avatar_gs.training.config import TrainingConfig
from avatar_gs.training.prompts import with_extra
from avatar_gs.training.rendering import encoder_at
from avatar_gs.training.reports import peak_memory_mib
from avatar_gs.training.scene import Scene, Scenes
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import Trainer
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.types import Bucket, Gaussians

PROMPT = "a person"
WARM_UP = 2
"""Steps before the measured ones, in which kernels are compiled or selected."""
REFINE_EVERY = 3
"""Steps between densifications."""
LONGEST_CYCLE = 16
"""Maximum number of steps until one in which guidance learns."""


@dataclass(frozen=True)
class _Step:
    """Times of one measured step, and whether it refined splats and whether guidance learned."""

    seconds: float
    parts: dict[str, float]
    refined: bool
    learns: bool


@dataclass(frozen=True)
class Call:
    """The arguments of one call of the prior, and whether a backward pass followed."""

    z_t: Tensor
    t: Tensor
    cond: Tensor
    control: Tensor | None
    backward: bool

    def again(self, prior: StableDiffusionPrior) -> None:
        """Repeat the evaluation and its backward pass."""
        if not self.backward:
            with torch.no_grad():
                prior.eps(self.z_t, self.t, self.cond, self.control)
            return
        cond = self.cond.detach().requires_grad_()
        prior.eps(self.z_t, self.t, cond, self.control).sum().backward()


@dataclass(frozen=True)
class StepTimes:
    """Medians in seconds."""

    step: float
    floor: float
    """Sum of the prior's evaluations (``FLOOR``) alone."""
    parts: dict[str, float]
    """Parts of a step; ``densify`` is per densification."""
    alone: dict[str, float]
    """Parts measured alone."""
    calls: tuple[tuple[int, bool], ...]
    """Images of each call of UNet and ControlNet in a step, and whether a backward pass followed; if guidance learns in
    some steps only, of such a step."""
    resting_calls: tuple[tuple[int, bool], ...]
    """The same for a step in which guidance does not learn; empty if it learns in all or none."""
    peak_memory_mib: dict[str, float]
    splats: int

    @property
    def ratio(self) -> float | None:
        """Step time divided by the floor; None without a floor."""
        return self.step / self.floor if self.floor else None


class RecordedPrior(StableDiffusionPrior):
    """Another prior with the same parts. Keeps the arguments of its calls of ``eps`` (without an adapter's) while
    ``recorded`` is a list."""

    def __init__(self, prior: StableDiffusionPrior) -> None:
        self.__dict__.update(vars(prior))
        self.recorded: list[Call] | None = None

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        if self.recorded is not None:
            backward = torch.is_grad_enabled() and (cond.requires_grad or z_t.requires_grad)
            self.recorded.append(Call(z_t.detach(), t, cond.detach(), control, backward))
        return super().eps(z_t, t, cond, control)


def refining(settings: Settings) -> tuple[TrainingConfig, dict[Bucket, BucketPrompt]]:
    """The settings of a run that refines its splats every ``REFINE_EVERY`` steps, and its prompts."""
    density = replace(settings.density, start=0.0, stop=1.0, prune_stop=1.0, every=REFINE_EVERY)
    config = replace(settings.training, density=density)
    return config, with_extra(bucket_prompts(PROMPT, "", config.prompts), config)


def time_steps(
    settings: Settings, body: Body, prior: StableDiffusionPrior, repeats: int, *, floor: bool = True
) -> StepTimes:
    """Time ``repeats`` steps just after the guidance's warm-up, when steps are the most expensive.

    Args:
        floor: also measure parts alone.

    Raises:
        UserError: for a method that edits an existing avatar.
    """
    if settings.guidance.edits:
        raise UserError(f"guidance={settings.guidance.method} edits an existing avatar: benchmark another method")
    config, prompts = refining(settings)
    recorder = RecordedPrior(prior)
    trainer = Trainer.build(config, body, recorder, prompts)
    state = trainer.first_state(body)
    state.step = round(state.guidance.method.warmup * config.optimize.steps) + 1
    every = settings.guidance.de_sds.update_every if settings.guidance.method == "de_sds" else 1
    cycle = min(every, LONGEST_CYCLE)
    with Scenes(body, config, prior.image_size) as scenes:
        timed = _TimedSteps(trainer, state, scenes, recorder)
        for _ in range(WARM_UP):
            timed.step()
        calls = timed.record(cycle)
        if prior.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(prior.device)
        steps, memory, alone = [], {}, {}
        for _ in range(max(repeats, cycle)):
            one, scene = timed.step()
            steps.append(one)
            memory = memory or all_peak_memory_mib(prior.device)  # before the floor is measured
            scenes.wait()  # so that preparing the next scene does not interfere
            if floor:
                for name, seconds in _alone(calls, every, scene, scenes, state, prior).items():
                    alone.setdefault(name, []).append(seconds)
    return _medians(steps, alone, calls, every, memory, len(state.model))


@dataclass(frozen=True)
class _TimedSteps:
    """A run, step by step."""

    trainer: Trainer
    state: TrainingState
    scenes: Scenes
    prior: RecordedPrior

    def step(self) -> tuple[_Step, Scene]:
        state, before, began = self.state, dict(self.state.seconds), time.perf_counter()
        with Stopwatch(state.seconds, self.prior.device)("scene"):
            scene = self.scenes.at(state.step)
        report = self.trainer.step(state, scene)
        state.seconds.settle()
        parts = {name: seconds - before.get(name, 0.0) for name, seconds in state.seconds.items()}
        took, refined = time.perf_counter() - began, report.refinement != Refinement()
        return _Step(took, parts, refined, bool(report.distilled.auxiliary)), scene

    def record(self, cycle: int) -> dict[bool, list[Call]]:
        """The calls of a step in which guidance learns, and of one in which it does not, as far as ``cycle`` steps have
        them."""
        calls: dict[bool, list[Call]] = {}
        for _ in range(cycle):
            self.prior.recorded = some = []
            one, _ = self.step()
            calls[one.learns] = some
            if len(calls) == 2:
                break
        self.prior.recorded = None
        return calls


def _medians(
    steps: list[_Step],
    alone: dict[str, list[float]],
    calls: dict[bool, list[Call]],
    every: int,
    memory: dict[str, float],
    splats: int,
) -> StepTimes:
    """The times of all steps in one."""
    middle = {name: median(seconds) for name, seconds in alone.items()}
    groups = {learns: [one for one in steps if one.learns is learns] for learns in {one.learns for one in steps}}
    learning = calls.get(True, calls.get(False, []))
    return StepTimes(
        step=_mean({learns: median(one.seconds for one in some) for learns, some in groups.items()}, every),
        floor=sum((seconds for name, seconds in middle.items() if name in FLOOR), start=0.0),
        parts=_parts(steps, groups, every),
        alone=middle,
        calls=tuple((len(call.z_t), call.backward) for call in learning),
        resting_calls=tuple((len(call.z_t), call.backward) for call in calls[False]) if len(calls) == 2 else (),
        peak_memory_mib=memory,
        splats=splats,
    )


def all_peak_memory_mib(device: torch.device) -> dict[str, float]:
    """Peak memory, on a GPU with that reserved by torch's allocator: more than the tensors, less than all of CUDA's."""
    peak = peak_memory_mib(device)
    if device.type == "cuda":
        peak["gpu reserved"] = round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
    return peak


NETWORKS = ("UNet and ControlNet forward", "UNet and ControlNet forward and backward")
FLOOR = (*NETWORKS, "VAE forward", "VAE backward")
RASTERISER = ("rasterise forward", "rasterise backward")
Timed = Callable[[str, Callable[[], Any]], Any]
"""Calls a function and adds its duration to a name."""


def _alone(
    calls: dict[bool, list[Call]],
    every: int,
    scene: Scene,
    scenes: Scenes,
    state: TrainingState,
    prior: StableDiffusionPrior,
) -> dict[str, float]:
    """Seconds of each part of a step alone."""
    seconds: dict[str, float] = {}
    clock = Stopwatch(seconds, prior.device)

    def timed(name: str, function: Callable[[], Any]) -> Any:
        with clock(name):
            return function()

    timed("scene: pose maps, cameras, light", lambda: scenes.make(state.step))
    images = _rasterised(timed, scene, state, prior.image_size)
    with prior.at_once():
        _encoded(timed, images, encoder_at(prior, state.step / scenes.config.optimize.steps))
        networks: dict[bool, dict[str, float]] = {}
        for learns, some in calls.items():
            networks[learns] = dict.fromkeys(NETWORKS, 0.0)
            own = Stopwatch(networks[learns], prior.device)
            for call in some:
                with own(NETWORKS[int(call.backward)]):
                    call.again(prior)
    for name in NETWORKS:
        if any(some[name] for some in networks.values()):
            seconds[name] = _mean({learns: some[name] for learns, some in networks.items()}, every)
    return seconds


def _rasterised(timed: Timed, scene: Scene, state: TrainingState, size: int) -> Tensor:
    """The scene's images for the encoder as leaves with gradients, detached from the rasteriser's graph."""
    posed = timed("skin", lambda: state.model.pose(scene.posed))
    splats = Gaussians(*(value.detach().requires_grad_() for value in vars(posed).values()))
    render = timed(RASTERISER[0], lambda: rasterize(splats, scene.cameras, scene.backgrounds))
    timed(RASTERISER[1], lambda: torch.autograd.grad(render.rgb.sum(), list(vars(splats).values())))
    images = F.interpolate(render.rgb.detach().permute(0, 3, 1, 2), (size, size), mode="area").permute(0, 2, 3, 1)
    return images.contiguous().requires_grad_()


def _encoded(timed: Timed, images: Tensor, encode: Callable[[Tensor], Tensor]) -> None:
    """Encode images to latents, and compute the gradient on the images."""
    latents = timed("VAE forward", lambda: encode(images))
    timed("VAE backward", lambda: torch.autograd.grad(latents.sum(), images))


def _parts(steps: list[_Step], groups: dict[bool, list[_Step]], every: int) -> dict[str, float]:
    """Means of medians by part; ``densify`` is the additional time of ``update`` in refining steps."""
    names = dict.fromkeys(name for one in steps for name in one.parts)
    middle = {
        name: _mean(
            {learns: median(one.parts.get(name, 0.0) for one in some) for learns, some in groups.items()}, every
        )
        for name in names
    }
    refining = [one.parts["update"] for one in steps if one.refined]
    others = [one.parts["update"] for one in steps if not one.refined]
    if refining and others:
        middle["update"] = median(others)
        middle["densify"] = max(median(refining) - middle["update"], 0.0)
    return middle


def _mean(groups: dict[bool, float], every: int) -> float:
    """Mean over a cycle of one learning step in ``every``; of the measured steps if all or none learn."""
    if len(groups) == 1:
        return next(iter(groups.values()))
    return groups[False] + (groups[True] - groups[False]) / every
