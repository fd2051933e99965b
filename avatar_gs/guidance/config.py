"""Settings of score distillation: the method, and what all methods share."""

from dataclasses import dataclass, field, fields

from avatar_gs.core.errors import UserError, require
from avatar_gs.core.validation import Section, bounded
from avatar_gs.guidance.cfg import Unconditional
from avatar_gs.guidance.methods.base import MethodConfig
from avatar_gs.guidance.methods.bridge import BridgeConfig
from avatar_gs.guidance.methods.csd import CsdConfig
from avatar_gs.guidance.methods.dds import DdsConfig
from avatar_gs.guidance.methods.de_sds import DeSdsConfig
from avatar_gs.guidance.methods.hifa import HifaConfig
from avatar_gs.guidance.methods.ism import IsmConfig
from avatar_gs.guidance.methods.l_diff import LDiffConfig
from avatar_gs.guidance.methods.nfsd import NfsdConfig
from avatar_gs.guidance.methods.none import NoneConfig
from avatar_gs.guidance.methods.pds import PdsConfig
from avatar_gs.guidance.methods.robust_nfsd import RobustNfsdConfig
from avatar_gs.guidance.methods.sdi import SdiConfig
from avatar_gs.guidance.methods.sds import SdsConfig
from avatar_gs.guidance.methods.vsd import VsdConfig
from avatar_gs.guidance.noise import NoiseConfig
from avatar_gs.guidance.schedule import ScheduleConfig, Weight


@dataclass
class GuidanceConfig(Section):
    """Score distillation. The defaults are the recipe for the packaged prior; ``guidance=<name>`` has others.

    Every field whose type is a ``MethodConfig`` is a method, called by the field's name.
    """

    section = "guidance"

    method: str = "de_sds"
    """The method, one of ``METHODS``."""
    cfg_scale: float = bounded(4.0, 0, 1000, expected="0 to 1000 (7.5 is usual)")
    """s in the method's formula, 0 to 1000; SDS at s + 1 corresponds to DE-SDS at s. Presets for Stable Diffusion use
    7.5; the packaged prior needs less."""
    cfg_interval: list[float] = field(default_factory=lambda: [0.0, 1.0])
    """Timesteps at which classifier-free guidance is on, as fractions from 0 (no noise) to 1; elsewhere the scale is 1
    and the unconditional prediction is saved."""
    cfg_rescale: float = bounded(0.0, 0, 1)
    """phi of CFG-rescale (Lin et al. 2023), 0 (off) to 1: how far the guided prediction's standard deviation is moved
    to that of the text's prediction."""
    unconditional: Unconditional = Unconditional.negative
    """The unconditional condition of methods whose formula does not fix it (not DE-SDS, NFSD, CSD)."""
    perp_neg: float = bounded(0.0, 0, 1000)
    """Perp-Neg's weight of the negative prompt, 0 (off) to 1000; above 0 the empty prompt is the unconditional one."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    weight: Weight = Weight.sigma_over_alpha
    """w(t), the factor of the residual."""
    weight_scale: float = bounded(1.0, 0, 1000)
    """Constant factor of w(t), 0 to 1000."""
    clip: float = bounded(0.0, 0, expected="0 (off) or a positive norm")
    """Largest norm over the channels of one latent pixel's gradient; 0 is off."""
    dynamic_threshold: float = bounded(
        0.0, 0, 1, expected="a fraction of the latents, 0 (off) to 1 (0.995 is Imagen's)"
    )
    """Imagen's dynamic thresholding of the clean latents that the guided prediction implies: the quantile (Imagen:
    0.995) of an image's magnitudes that is reduced to ``latent_range`` if it exceeds that; 0 is off."""
    latent_range: float = bounded(5.0, 0, 1000, above=True, expected="more than 0, at most 1000")
    """Largest magnitude that thresholding leaves unchanged (Imagen: 1, for pixels). The packaged prior's latents of a
    person have a 0.995 quantile of 2.8 on average and at most 5.1 (24 people)."""
    rgb_weight: float = bounded(0.0, 0, 1000)
    """Weight of the squared distance between the render and the decoded clean latents (HiFA's second term), 0 (off) to
    1000."""
    inner_steps: int = bounded(2, 1, 1000)
    """Updates of the avatar per target, each with a new render, before the prior is evaluated again; 1 to 1000."""
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    de_sds: DeSdsConfig = field(default_factory=DeSdsConfig)
    sds: SdsConfig = field(default_factory=SdsConfig)
    l_diff: LDiffConfig = field(default_factory=LDiffConfig)
    nfsd: NfsdConfig = field(default_factory=NfsdConfig)
    robust_nfsd: RobustNfsdConfig = field(default_factory=RobustNfsdConfig)
    csd: CsdConfig = field(default_factory=CsdConfig)
    ism: IsmConfig = field(default_factory=IsmConfig)
    sdi: SdiConfig = field(default_factory=SdiConfig)
    hifa: HifaConfig = field(default_factory=HifaConfig)
    dds: DdsConfig = field(default_factory=DdsConfig)
    pds: PdsConfig = field(default_factory=PdsConfig)
    vsd: VsdConfig = field(default_factory=VsdConfig)
    none: NoneConfig = field(default_factory=NoneConfig)

    @property
    def chosen(self) -> MethodConfig:
        """The settings of ``method``."""
        return getattr(self, self.method)

    @property
    def edits(self) -> bool:
        """Whether the method changes an avatar that exists already."""
        return self.chosen.edits

    def __post_init__(self) -> None:
        require_method("guidance.method", self.method)
        super().__post_init__()
        interval = self.cfg_interval
        valid = len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1
        require(valid, "guidance.cfg_interval", interval, "two fractions, 0 <= first < second <= 1")
        if self.dynamic_threshold and not self.chosen.subtracts_from_guided:
            raise UserError(
                f"guidance.dynamic_threshold={self.dynamic_threshold}: guidance={self.method} does not move the "
                "avatar by the guided prediction itself; leave it out (0), or take another method, such as guidance=sds"
            )


METHODS: dict[str, type[MethodConfig]] = {
    entry.name: entry.type
    for entry in fields(GuidanceConfig)
    if isinstance(entry.type, type) and issubclass(entry.type, MethodConfig)
}
"""The methods' settings by name."""


def require_method(setting: str, name: str) -> None:
    """Raises UserError if ``setting`` names no method."""
    if name not in METHODS:
        raise UserError(f"{setting}={name} is none of {', '.join(METHODS)}")
