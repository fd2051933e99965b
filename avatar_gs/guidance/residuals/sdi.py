"""SDI: Score Distillation via Inversion (Lukoianov et al. 2024)."""

from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, SdiConfig
from avatar_gs.guidance.noise import Noised, arrived, ddim
from avatar_gs.guidance.residuals.base import Context, Predictor
from avatar_gs.guidance.residuals.sds import Sds
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Sdi(Sds):
    """SDS's residual on the noise that DDIM inversion finds in the picture itself."""

    def __init__(self, config: SdiConfig, cfg: Cfg) -> None:
        super().__init__(cfg)
        self.steps = config.inversion_steps
        self.inversion = Cfg(config.inversion_scale, cfg.away)

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        z_t, asked = z, context.asked(*self.inversion.names)
        for now, later in pairwise(t * hop // self.steps for hop in range(self.steps + 1)):
            eps = self.inversion(predict(arrived(predict.prior, z, z_t, now), asked))
            z_t = ddim(predict.prior, z_t, now, eps, later)
        return arrived(predict.prior, z, z_t, t)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Sdi:
    return Sdi(config.sdi, Cfg.of(config))
