"""SDI: Score Distillation via Inversion (Lukoianov et al. 2024, arXiv:2405.15891)."""

from dataclasses import dataclass
from itertools import pairwise

from avatar_gs.core.lazy import Float, Int, Tensor
from avatar_gs.core.validation import bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, MethodConfig, Noised, Predictor, Setup, at_level, ddim
from avatar_gs.guidance.methods.sds import Sds


@dataclass
class SdiConfig(MethodConfig):
    """Score Distillation via Inversion."""

    section = "guidance.sdi"
    cost = 22.0

    inversion_steps: int = bounded(10, 1, expected="1 or more")
    """DDIM steps from the clean latents to z_t."""
    inversion_scale: float = bounded(-7.5, -1000, 1000)
    """CFG scale of the inversion, -1000 to 1000."""

    def build(self, setup: Setup) -> "Sdi":
        return Sdi(self, setup.cfg)


class Sdi(Sds):
    """``delta = cfg_s(z_t) - eps``, where z_t is the DDIM inversion of z and eps the noise that leads from z to z_t."""

    def __init__(self, config: SdiConfig, cfg: Cfg) -> None:
        super().__init__(cfg)
        self.steps = config.inversion_steps
        self.inversion = Cfg(config.inversion_scale, cfg.away)

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        z_t, conditions = z, context.select(*self.inversion.names)
        for now, later in pairwise(t * hop // self.steps for hop in range(self.steps + 1)):
            eps = self.inversion(predict(at_level(predict.prior, z, z_t, now), conditions))
            z_t = ddim(predict.prior, z_t, now, eps, later)
        return at_level(predict.prior, z, z_t, t)
