"""What the guidance methods share: their inputs and outputs, noised latents, and calls of the prior.

A method is one file in this package: a ``MethodConfig`` dataclass with the method's settings, and a ``Method`` class.
To add one, write that file, add the config as a field of ``GuidanceConfig`` (its name is the method's word on the
command line) and a preset in ``conf/guidance``.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from avatar_gs.core.device import to_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.lazy import Bool, Float, Int, Tensor, torch
from avatar_gs.core.validation import Section
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.protocols import Prior


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """The inputs of one step of guidance, apart from the latents."""

    conditions: Mapping[str, Float[Tensor, "B L d"]]
    """Embeddings by name (``text``, ``negative``, ``null``, …), one per image (``TextConditions.batch``)."""
    buckets: Sequence[Hashable]
    """Each image's bucket of views."""
    step: int
    """0 to ``total`` - 1."""
    total: int
    """Steps of the run."""
    generator: "torch.Generator"
    """On the CPU; the only source of randomness."""
    control: Float[Tensor, "B H W 3"] | None = None
    """Pose maps in [0, 1]; None skips the ControlNet."""
    images: Float[Tensor, "B h2 w2 3"] | None = None
    """The images in [0, 1] that the latents encode, with their gradients; needed for ``rgb_weight``."""
    source: Float[Tensor, "B c h w"] | None = None
    """Latents of the same views before editing; needed by DDS and PDS."""
    cameras: Float[Tensor, "B 16"] | None = None
    """``T_camera_world`` of each view, flattened; for VSD."""
    noise: Float[Tensor, "B c h w"] | None = None
    """Noise that stays over the steps (``guidance.noise``); None: all noise is independent."""
    beta: float = 1.0
    """Fraction of ``noise``, the rest being independent (``guidance.noise.beta``)."""


@dataclass(frozen=True, kw_only=True)
class Context(StepInputs):
    """The inputs of a step together with the values that guidance derives from them."""

    progress: float
    """Completed fraction of the run after the warm-up, in [0, 1]."""
    warming_up: bool
    """Whether only the method's learnable is updated in this step."""
    t: Int[Tensor, " B"]
    """Each image's timestep, on the host."""
    generators: Sequence["torch.Generator"] = ()
    """One per image."""

    def select(self, *names: str) -> dict[str, Float[Tensor, "B L d"]]:
        """The conditions of these names, without repetitions."""
        return {name: self.conditions[name] for name in names}


@dataclass(frozen=True)
class Noised:
    """Latents at a noise level: ``z_t = alpha z + sigma eps``. Nothing here carries a gradient to the images.

    ``reference`` is the noise that residuals subtract: eps where it is sampled independently.
    """

    z: Float[Tensor, "B c h w"]
    z_t: Float[Tensor, "B c h w"]
    t: Int[Tensor, " B"]
    reference: Float[Tensor, "B c h w"]
    alpha: Float[Tensor, "B 1 1 1"]
    sigma: Float[Tensor, "B 1 1 1"]

    def denoised(self, eps: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """The clean latents that a noise prediction implies."""
        return (self.z_t - self.sigma * eps) / self.alpha

    def noise_towards(self, z0: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """The noise prediction that implies clean latents: the inverse of ``denoised``."""
        return (self.z_t - self.alpha * z0) / self.sigma


@dataclass(frozen=True)
class Residual:
    """The output of a method, before the weight w(t)."""

    delta: Float[Tensor, "B c h w"]
    """The residual of noise predictions; the gradient on the latents is w(t) times this."""
    eps_hat: Float[Tensor, "B c h w"] | None = None
    """The guided noise prediction, which implies the clean latents; None if the method predicts nothing."""
    auxiliary: Float[Tensor, ""] | None = None
    """The loss of the method's learnable, with its graph."""
    unweighted: Float[Tensor, "B c h w"] | None = None
    """Added to the gradient on the latents without w(t)."""
    logs: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Detached scalars."""


@dataclass(frozen=True)
class CfgInterval:
    """Timesteps at which classifier-free guidance is on (Kynkäänniemi et al. 2024, arXiv:2404.07724).

    At others the conditions that guidance extrapolates away from are not predicted; the prediction that guidance goes
    towards takes their place, which is guidance with scale 1.
    """

    low: float
    high: float
    """First and last timestep."""
    towards: Mapping[str, str]
    """By the name of a condition that guidance extrapolates away from: the one that it goes towards."""

    def inside(self, t: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Whether guidance is on, on the host."""
        t = t.cpu()
        return (t >= self.low) & (t <= self.high)


class Predictor:
    """The prior with the pose maps of one step: noise predictions for named conditions in one batched call."""

    def __init__(
        self, prior: Prior, control: Float[Tensor, "B H W 3"] | None, interval: CfgInterval | None = None
    ) -> None:
        """Predict with a prior.

        Args:
            control: pose maps; None skips the ControlNet.
            interval: where guidance is on; None: everywhere.
        """
        self.prior = prior
        self.control = control
        self.interval = interval

    def __call__(
        self,
        noised: Noised,
        conditions: Mapping[str, Float[Tensor, "B L d"]],
        where: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> dict[str, Float[Tensor, "B c h w"]]:
        """Predictions by the name of their condition.

        Args:
            noised: the noised latents, the same for all conditions.
            conditions: text embeddings by name.
            where: by name, the images to predict; the others are not computed and come back as zero. Keep masks on
                the CPU, since the host waits for those that are on a GPU.
        """
        return self.together({name: (noised, condition) for name, condition in conditions.items()}, where)

    def together(
        self,
        inputs: Mapping[str, tuple[Noised, Float[Tensor, "B L d"]]],
        where: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> dict[str, Float[Tensor, "B c h w"]]:
        """The same for noised latents that differ by name."""
        replaced = {}
        if self.interval is not None:
            inside = {name: self.interval.inside(noised.t) for name, (noised, _) in inputs.items()}
            pairs = self.interval.towards.items()
            replaced = {away: name for away, name in pairs if {away, name} <= set(inputs) and not inside[away].all()}
        if not replaced:
            return self._predicted(inputs, where)
        left = {away: inside[away] & (where or {}).get(away, torch.tensor(True)) for away in replaced}
        some = {name: given for name, given in inputs.items() if name not in left or left[name].any()}
        eps = self._predicted(some, {**(where or {}), **{away: left[away] for away in left if away in some}})
        for away, name in replaced.items():
            mask = to_device(inside[away][:, None, None, None], eps[name].device)
            eps[away] = eps[away].where(mask, eps[name]) if away in eps else eps[name]
        return eps

    def _predicted(
        self,
        inputs: Mapping[str, tuple[Noised, Float[Tensor, "B L d"]]],
        where: Mapping[str, Bool[Tensor, " B"]] | None,
    ) -> dict[str, Float[Tensor, "B c h w"]]:
        first = next(iter(inputs.values()))[0]
        batch = len(first.t)
        chosen = {name: _indices((where or {}).get(name), first.t.device) for name in inputs}

        def pick(name: str, value: Tensor) -> Tensor:
            indices = chosen[name]
            return value if indices is None else value[indices]

        z_t = torch.cat([pick(name, noised.z_t) for name, (noised, _) in inputs.items()])
        t = torch.cat([pick(name, noised.t) for name, (noised, _) in inputs.items()])
        condition = torch.cat([pick(name, condition) for name, (_, condition) in inputs.items()])
        control = None if self.control is None else torch.cat([pick(name, self.control) for name in inputs])
        sizes = [batch if indices is None else len(indices) for indices in chosen.values()]
        parts = self.prior.eps(z_t, t, condition, control).to(first.z_t).split(sizes)
        return {
            name: part if indices is None else part.new_zeros(batch, *part.shape[1:]).index_copy(0, indices, part)
            for (name, indices), part in zip(chosen.items(), parts, strict=True)
        }


def _indices(mask: Bool[Tensor, " B"] | None, device: "torch.device") -> Int[Tensor, " b"] | None:
    """Indices of the images that a mask selects, on a device; None if it selects all."""
    if mask is None:
        return None
    indices = mask.cpu().nonzero().flatten()
    return None if len(indices) == len(mask) else to_device(indices, device)


@runtime_checkable
class Learnable(Protocol):
    """Parameters that a method trains during the run, with their optimiser. The state is tensors only."""

    def update(self, loss: Float[Tensor, ""]) -> None: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class Method(ABC):
    """The part of score distillation that differs between methods. It runs without gradients, and may enable them for
    its learnable."""

    warmup: float = 0.0
    """Fraction of the run, at its start, in which only ``learnable`` is updated."""
    learnable: Learnable | None = None

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        """The noised latents: with the step's noise, unless a method overrides this."""
        return sampled(predict.prior, z, t, context)

    @abstractmethod
    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual: ...


class MethodConfig(Section):
    """Base of a method's settings. The class attributes describe the method to the rest of the program."""

    edits: ClassVar[bool] = False
    """Changes an avatar or image that exists already, and encodes it in every step."""
    subtracts_from_guided: ClassVar[bool] = True
    """The residual is the guided prediction minus a term that does not depend on it (or there is none), so that
    ``guidance.dynamic_threshold`` can replace the guided prediction."""
    through_networks: ClassVar[bool] = False
    """Back-propagates through the UNet."""
    through_adapter: ClassVar[bool] = False
    """Trains a LoRA of the UNet, which predicts all images at once and is not synchronised between processes."""
    predictions: ClassVar[tuple[int, int] | None] = None
    """Predictions per step and image without and with a backward pass, for time estimates; None: no estimate."""
    cost: ClassVar[float] = 3.0
    """Approximate number of predictions per step and image, for progress bars."""

    @property
    def name(self) -> str:
        """The method's word on the command line."""
        return self.section.rpartition(".")[2]

    @property
    def warms_up(self) -> bool:
        """Whether the run starts with steps that update the method's learnable only."""
        return False

    def peak_predictions(self) -> int:
        """Largest number of predictions per image in one call without gradients, for memory estimates."""
        return 4 if self.predictions is None else self.predictions[0]

    def mean_predictions(self) -> tuple[float, float]:
        """``predictions``, averaged over the steps of a run.

        Raises:
            ValueError: for a method without an estimate.
        """
        if self.predictions is None:
            raise ValueError(f"{self.section}: the number of predictions is not known")
        return float(self.predictions[0]), float(self.predictions[1])

    def fitted(self, steps: int) -> "MethodConfig":
        """These settings for a run of ``steps`` steps, which may be shorter than the method was made for."""
        return self

    def require_source(self, found: bool) -> None:
        """Raises UserError if the method edits and there is nothing to edit."""
        if self.edits and not found:
            raise UserError(
                f"guidance={self.name} changes what is there already: give init=<folder of a run with an "
                "avatar>, or choose a method that starts from scratch, such as guidance=de_sds or guidance=sds"
            )

    def build(self, setup: "Setup") -> Method:
        """The method itself.

        Raises:
            UserError: if the method cannot work with this prior or these conditions.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Setup:
    """What a method is built from."""

    prior: Prior
    conditions: TextConditions
    """The run's text conditions; learnables start from them."""
    cfg: Cfg
    """Classifier-free guidance as configured, which methods adapt to their formula."""
    methods: Mapping[str, MethodConfig]
    """The settings of all methods by name, for a method that builds on another."""


def image_generators(generator: "torch.Generator", batch: int) -> list["torch.Generator"]:
    """One generator per image, so that four batches of one sample the same numbers as one batch of four."""
    seeds = torch.randint(0, 2**62, (batch,), generator=generator, device=generator.device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms(generators: Sequence["torch.Generator"]) -> Float[Tensor, " B"]:
    """One sample from U[0, 1) per image."""
    return torch.cat([torch.rand(1, generator=generator) for generator in generators])


def denoising_loss(
    eps: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], count: int | None = None
) -> Float[Tensor, ""]:
    """0.5 |eps - noise|^2, summed over an image and averaged over ``count`` images (default: the whole batch)."""
    return 0.5 * (eps - noise).square().sum() / (len(eps) if count is None else count)


def noise_ratios(prior: Prior) -> Float[Tensor, " T"]:
    """sigma / alpha at every timestep of the prior, on the host, where decisions by timestep are made."""
    t = torch.arange(prior.num_timesteps, device=prior.device)
    return (prior.sigma(t) / prior.alpha(t)).cpu()


def levels(
    prior: Prior, t: Int[Tensor, " B"], like: Tensor
) -> tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
    """alpha and sigma at ``t``, shaped to multiply latents."""
    alpha, sigma = (value[:, None, None, None].to(like) for value in (prior.alpha(t), prior.sigma(t)))
    return alpha, sigma


def with_noise(
    prior: Prior, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], eps: Float[Tensor, "B c h w"]
) -> Noised:
    """z_t = alpha z + sigma eps with given noise, which is the reference."""
    alpha, sigma = levels(prior, t, z)
    return Noised(z, alpha * z + sigma * eps, t, eps, alpha, sigma)


def independent(
    prior: Prior, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], generators: Sequence["torch.Generator"]
) -> Noised:
    """z_t = alpha z + sigma eps with new noise for every image, which is the reference."""
    return with_noise(prior, z, t, _independent_noise(z, generators))


def _independent_noise(
    z: Float[Tensor, "B c h w"], generators: Sequence["torch.Generator"]
) -> Float[Tensor, "B c h w"]:
    """New noise for every image."""
    noise = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in generators])
    return to_device(noise.to(z.dtype), z.device)


def sampled(prior: Prior, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], context: Context) -> Noised:
    """z_t = alpha z + sigma eps with the step's noise: ``beta * context.noise + sqrt(1 - beta^2) * independent``."""
    if context.noise is None or context.beta == 0:
        return independent(prior, z, t, context.generators)
    noise = context.noise.to(z)
    if context.beta < 1:
        noise = context.beta * noise + (1 - context.beta**2) ** 0.5 * _independent_noise(z, context.generators)
    return with_noise(prior, z, t, noise)


def at_level(prior: Prior, z: Float[Tensor, "B c h w"], z_t: Float[Tensor, "B c h w"], t: Int[Tensor, " B"]) -> Noised:
    """Latents that are at timestep ``t`` already; the reference is the noise that leads from ``z`` to them."""
    alpha, sigma = levels(prior, t, z)
    return Noised(z, z_t, t, (z_t - alpha * z) / sigma, alpha, sigma)


def ddim(
    prior: Prior,
    z_t: Float[Tensor, "B c h w"],
    t: Int[Tensor, " B"],
    eps: Float[Tensor, "B c h w"],
    to: Int[Tensor, " B"],
) -> Float[Tensor, "B c h w"]:
    """The deterministic DDIM step (Song et al. 2021, arXiv:2010.02502) from timestep ``t`` to ``to``, in either
    direction."""
    alpha, sigma = levels(prior, t, z_t)
    alpha_to, sigma_to = levels(prior, to, z_t)
    return alpha_to * (z_t - sigma * eps) / alpha + sigma_to * eps
