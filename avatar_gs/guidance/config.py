"""Settings of score distillation: the method, and the parts that all methods share."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.errors import UserError, require


class Method(Enum):
    """What the residual is made of; ``none`` is the control that moves nothing."""

    de_sds = "de_sds"
    sds = "sds"
    l_diff = "l_diff"
    nfsd = "nfsd"
    robust_nfsd = "robust_nfsd"
    csd = "csd"
    ism = "ism"
    sdi = "sdi"
    hifa = "hifa"
    dds = "dds"
    pds = "pds"
    vsd = "vsd"
    none = "none"


EDITING = frozenset({Method.dds, Method.pds})
"""The methods that change what is there already, and look at it in every step."""


NOT_A_DIFFERENCE = frozenset({Method.l_diff, Method.pds})
"""The methods whose residual is not the guided prediction less something else, but a product of that."""


class ScheduleKind(Enum):
    """How noise levels are drawn over a run."""

    sqrt_annealed = "sqrt_annealed"
    linear = "linear"
    uniform = "uniform"
    two_stage = "two_stage"


class Weight(Enum):
    """w(t) before the residual, in alpha = sqrt(alphas_cumprod) and sigma = sqrt(1 - alphas_cumprod)."""

    sigma_squared = "sigma_squared"
    one = "one"
    alpha = "alpha"
    sigma_over_alpha = "sigma_over_alpha"
    alpha_over_sigma = "alpha_over_sigma"
    one_over_alpha = "one_over_alpha"


class Unconditional(Enum):
    """The condition that classifier-free guidance pushes away from."""

    negative = "negative"
    empty = "empty"


class Variant(Enum):
    """DE-SDS for study: ``seed`` lets the gradient of y_con's loss leak into the avatar, as first written; ``composed``
    asks for the person and for the whole text apart, as its score equation reads."""

    standard = "standard"
    seed = "seed"
    composed = "composed"


class SmallNoise(Enum):
    """DE-SDS below the noise cut: ``seed`` subtracts nothing (as first described); ``con``: eps(y_con), as above it."""

    seed = "seed"
    con = "con"


@dataclass
class ScheduleConfig:
    """Noise levels as shares of the prior's training steps (0 clean, 1 pure noise)."""

    kind: ScheduleKind = ScheduleKind.sqrt_annealed
    t_max: float = 0.98
    t_min: float = 0.02
    floor: float = 0.0
    """An annealed t never falls below this share."""
    jitter: float = 0.0
    """An annealed t moves by up to ± this share, drawn for each picture."""
    late: float = 0.5
    """After this share of the run the two_stage schedule draws below ``t_max_late`` …"""
    t_max_late: float = 0.5
    """… which replaces ``t_max`` from then on."""

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max <= 1:
            raise UserError(
                f"guidance.schedule.t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min < t_max <= 1 "
                "(shares of the prior's training steps)"
            )
        for name, value in {"floor": self.floor, "jitter": self.jitter}.items():
            require(0 <= value < 1, f"guidance.schedule.{name}", value, f"0 <= {name} < 1")
        if self.kind is ScheduleKind.two_stage and not self.t_min < self.t_max_late <= self.t_max:
            raise UserError(
                f"guidance.schedule.t_max_late={self.t_max_late}: expected more than t_min={self.t_min}, at most "
                f"t_max={self.t_max}"
            )
        require(0 <= self.late <= 1, "guidance.schedule.late", self.late, "a share of the run, 0 to 1")


@dataclass
class DeSdsConfig:
    """DE-SDS: the learnable condition y_con that comes to describe the renders as they are."""

    learning_rate: float = 8e-4
    warmup: float = 0.03
    """The share of the run, at its start, in which only y_con learns and the avatar rests."""
    update_every: int = 1
    """Steps from one update of y_con to the next; the others are one batched call without a backward pass. In the
    warm-up y_con learns in every step."""
    noise_share: float = 0.0
    """How much of what is subtracted is the noise itself, not eps(y_con): 0 is DE-SDS alone, 1 is SDS at s + 1."""
    small_noise: SmallNoise = SmallNoise.seed
    small_noise_cut: float = 0.57
    """sigma / alpha below which ``small_noise`` applies (t < 200 of 1000 in Stable Diffusion)."""
    norm_band: float = 0.5
    """Each token of y_con keeps its first norm within ± this share."""
    variant: Variant = Variant.standard

    def __post_init__(self) -> None:
        require(self.learning_rate >= 0, "guidance.de_sds.learning_rate", self.learning_rate, "0 or more")
        require(0 <= self.warmup < 1, "guidance.de_sds.warmup", self.warmup, "a share of the run, 0 <= warmup < 1")
        require(0 <= self.noise_share <= 1, "guidance.de_sds.noise_share", self.noise_share, "a share, 0 to 1")
        require(self.update_every >= 1, "guidance.de_sds.update_every", self.update_every, "1 or more steps")
        require(
            self.small_noise_cut >= 0, "guidance.de_sds.small_noise_cut", self.small_noise_cut, "a ratio of 0 or more"
        )
        require(0 < self.norm_band <= 1, "guidance.de_sds.norm_band", self.norm_band, "0 < norm_band <= 1")


@dataclass
class NfsdConfig:
    """NFSD (Katzir et al. 2023), and its noise correction."""

    correction_weight: float = 1.0
    small_noise_cut: float = 0.57
    """sigma / alpha below which nothing is subtracted from the empty prompt's prediction (t < 200 of 1000)."""

    def __post_init__(self) -> None:
        require(self.correction_weight >= 0, "guidance.nfsd.correction_weight", self.correction_weight, "0 or more")
        require(
            self.small_noise_cut >= 0, "guidance.nfsd.small_noise_cut", self.small_noise_cut, "a ratio of 0 or more"
        )


@dataclass
class RobustNfsdConfig:
    """Robust NFSD: after a warm-up of plain NFSD, the noise correction is taken at a small t of its own."""

    warmup_steps: int = 300
    correction_weight: float = 2.0
    """The length of the correction, in lengths of the text's direction."""
    t_min: float = 0.02
    t_max: float = 0.2
    """The range of the correction's own t, as shares of the prior's training steps."""

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "guidance.robust_nfsd.warmup_steps", self.warmup_steps, "0 or more steps")
        require(
            self.correction_weight >= 0, "guidance.robust_nfsd.correction_weight", self.correction_weight, "0 or more"
        )
        if not 0 <= self.t_min < self.t_max <= 1:
            raise UserError(
                f"guidance.robust_nfsd.t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min < t_max <= 1"
            )


@dataclass
class CsdConfig:
    """CSD (Yu et al. 2023). The negative prompt's direction may be subtracted too, fading over the run."""

    negative_start: float = 0.0
    negative_end: float = 0.0

    def __post_init__(self) -> None:
        for name, value in {"negative_start": self.negative_start, "negative_end": self.negative_end}.items():
            require(value >= 0, f"guidance.csd.{name}", value, "0 (off) or more")


@dataclass
class IsmConfig:
    """ISM (LucidDreamer): the distance between two levels of one inversion. Levels are shares of the training steps."""

    stride: float = 0.2
    """The step of the inversion up to the lower level."""
    gap_start: float = 0.1
    """Between the lower level and t at the start of the run …"""
    gap: float = 0.05
    """… and from the share ``gap_falls`` of the run on."""
    gap_falls: float = 0.3

    def __post_init__(self) -> None:
        for name, value in {"stride": self.stride, "gap_start": self.gap_start, "gap": self.gap}.items():
            require(0 < value <= 1, f"guidance.ism.{name}", value, f"0 < {name} <= 1")
        require(0 <= self.gap_falls <= 1, "guidance.ism.gap_falls", self.gap_falls, "a share of the run, 0 to 1")


@dataclass
class SdiConfig:
    """SDI (Lukoianov et al. 2024): the noise is the picture's own, by DDIM inversion."""

    inversion_steps: int = 10
    inversion_scale: float = -7.5
    """The CFG scale of the inversion."""

    def __post_init__(self) -> None:
        require(self.inversion_steps >= 1, "guidance.sdi.inversion_steps", self.inversion_steps, "1 or more")
        require(
            -1000 <= self.inversion_scale <= 1000, "guidance.sdi.inversion_scale", self.inversion_scale, "-1000 to 1000"
        )


@dataclass
class HifaConfig:
    """HiFA (Zhu and Zhuang 2023): the clean picture by several denoising steps."""

    denoising_steps: int = 4

    def __post_init__(self) -> None:
        require(self.denoising_steps >= 1, "guidance.hifa.denoising_steps", self.denoising_steps, "1 or more")


@dataclass
class PdsConfig:
    """PDS (Koo et al. 2023)."""

    stride: int = 2
    """Training steps between a level and the one below it (the published code's 2); 1 is a reweighted DDS."""

    def __post_init__(self) -> None:
        require(self.stride >= 1, "guidance.pds.stride", self.stride, "1 or more steps")


@dataclass
class VsdConfig:
    """VSD (ProlificDreamer): a LoRA of the prior comes to describe the renders, camera by camera."""

    learning_rate: float = 1e-4
    rank: int = 4
    camera_dropout: float = 0.1
    """The share of pictures that the LoRA learns from without being told their camera."""

    def __post_init__(self) -> None:
        require(self.learning_rate >= 0, "guidance.vsd.learning_rate", self.learning_rate, "0 or more")
        require(1 <= self.rank <= 256, "guidance.vsd.rank", self.rank, "1 to 256")
        require(0 <= self.camera_dropout <= 1, "guidance.vsd.camera_dropout", self.camera_dropout, "a share, 0 to 1")


@dataclass
class BridgeConfig:
    """Bridge (McAllister et al. 2024), for any method: late in the run the gradient becomes the way from the text *with
    words of bad pictures* to the text."""

    start: float = 1.0
    """The share of the run at which the second stage begins; 1 is off."""
    words: str = ""
    """Added to every prompt; empty: the negative prompt. Published: "oversaturated, smooth, pixelated, cartoon, foggy,
    hazy, blurry, bad structure, noisy, malformed"."""

    def __post_init__(self) -> None:
        require(0 <= self.start <= 1, "guidance.bridge.start", self.start, "a share of the run, 0 to 1 (1 is off)")


def require_source(method: Method, found: bool) -> None:
    """Raises UserError where an editing method has nothing to edit."""
    if method in EDITING and not found:
        raise UserError(
            f"guidance={method.value} changes what is there already: give init=<folder of a run with an avatar>, or "
            "choose a method that begins anew, such as guidance=de_sds or guidance=sds"
        )


@dataclass
class GuidanceConfig:
    """Score distillation. ``cfg_scale`` is s in each method's own formula: SDS at s + 1 pulls as DE-SDS does at s.

    What a paper sets beside its residual (scale, schedule, weight) stands in its preset, ``guidance=<name>``.
    """

    method: Method = Method.de_sds
    cfg_scale: float = 4.0
    """7.5 is usual for Stable Diffusion (its presets set it); the small packaged prior wants less for clean colours."""
    cfg_rescale: float = 0.0
    """phi of CFG-rescale (Lin et al. 2023): 0 is off, 1 gives the guided prediction the text prediction's spread."""
    unconditional: Unconditional = Unconditional.negative
    """For methods whose own formula leaves it open (not DE-SDS, NFSD, CSD)."""
    perp_neg: float = 0.0
    """Perp-Neg's weight of the negative prompt (then the empty prompt is the unconditional one); 0 is off."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    weight: Weight = Weight.sigma_squared
    weight_scale: float = 1.0
    """A constant factor of w(t)."""
    clip: float = 0.0
    """The largest norm over the channels of one latent pixel's gradient; 0 is off."""
    dynamic_threshold: float = 0.0
    """Imagen's dynamic thresholding of the clean latents that the guided prediction implies: the share of their entries
    (Imagen: 0.995) whose magnitude is drawn into ``latent_range`` if it exceeds that; 0 is off."""
    latent_range: float = 5.0
    """The largest magnitude that thresholding leaves alone: 1 for Imagen, whose latents are pixels. In the packaged
    prior the 0.995 quantile of a drawn person's latents is 2.8 in the mean of 24 people, and 5.1 at most."""
    rgb_weight: float = 0.0
    """The weight of the distance between the render and the decoded clean picture (HiFA's second term); 0 is off."""
    inner_steps: int = 1
    """Updates of the avatar towards one and the same target, re-rendered each time, before the prior is asked again."""
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    de_sds: DeSdsConfig = field(default_factory=DeSdsConfig)
    nfsd: NfsdConfig = field(default_factory=NfsdConfig)
    robust_nfsd: RobustNfsdConfig = field(default_factory=RobustNfsdConfig)
    csd: CsdConfig = field(default_factory=CsdConfig)
    ism: IsmConfig = field(default_factory=IsmConfig)
    sdi: SdiConfig = field(default_factory=SdiConfig)
    hifa: HifaConfig = field(default_factory=HifaConfig)
    pds: PdsConfig = field(default_factory=PdsConfig)
    vsd: VsdConfig = field(default_factory=VsdConfig)

    @property
    def edits(self) -> bool:
        """Whether the method changes what is there already."""
        return self.method in EDITING

    def __post_init__(self) -> None:
        require(0 <= self.cfg_scale <= 1000, "guidance.cfg_scale", self.cfg_scale, "0 to 1000 (7.5 is usual)")
        require(0 <= self.cfg_rescale <= 1, "guidance.cfg_rescale", self.cfg_rescale, "0 to 1")
        require(self.clip >= 0, "guidance.clip", self.clip, "0 (off) or a positive norm")
        for name in ("perp_neg", "weight_scale", "rgb_weight"):
            value = getattr(self, name)
            require(0 <= value <= 1000, f"guidance.{name}", value, "0 to 1000")
        require(
            0 <= self.dynamic_threshold <= 1,
            "guidance.dynamic_threshold",
            self.dynamic_threshold,
            "a share of the latents, 0 (off) to 1 (0.995 is Imagen's)",
        )
        require(0 < self.latent_range <= 1000, "guidance.latent_range", self.latent_range, "more than 0, at most 1000")
        if self.dynamic_threshold and self.method in NOT_A_DIFFERENCE:
            raise UserError(
                f"guidance.dynamic_threshold={self.dynamic_threshold}: guidance={self.method.value} does not move the "
                "avatar by the guided prediction itself; leave it out (0), or take another method, such as guidance=sds"
            )
        require(1 <= self.inner_steps <= 1000, "guidance.inner_steps", self.inner_steps, "1 to 1000")
