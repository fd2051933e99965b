"""ISM: Interval Score Matching (Liang et al. 2023, LucidDreamer, arXiv:2311.11284)."""

from dataclasses import dataclass, replace
from itertools import pairwise

from avatar_gs.core.device import to_device
from avatar_gs.core.lazy import Float, Int, Tensor
from avatar_gs.core.validation import bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, MethodConfig, Noised, Predictor, Setup, at_level, ddim
from avatar_gs.guidance.methods.sds import Sds


@dataclass
class IsmConfig(MethodConfig):
    """Interval Score Matching between two levels u < t of one DDIM inversion, as fractions of the training steps."""

    section = "guidance.ism"
    cost = 8.0

    stride: float = bounded(0.2, 0, 1, above=True, expected="0 < stride <= 1")
    """Step of the inversion up to u."""
    gap_start: float = bounded(0.1, 0, 1, above=True, expected="0 < gap_start <= 1")
    """t - u at the start of the run."""
    gap: float = bounded(0.05, 0, 1, above=True, expected="0 < gap <= 1")
    """t - u from ``gap_falls`` on, reached linearly."""
    gap_falls: float = bounded(0.3, 0, 1, expected="a fraction of the run, 0 to 1")
    """Fraction of the run at which ``gap`` is reached."""

    def build(self, setup: Setup) -> "Ism":
        return Ism(self, setup.cfg)


class Ism(Sds):
    """``delta = cfg_s(z_t) - eps(z_u; null)``, where z_u and then z_t are found by DDIM inversion under the empty
    prompt: SDS's residual, with the prediction of the last inversion step as the reference."""

    def __init__(self, config: IsmConfig, cfg: Cfg) -> None:
        super().__init__(cfg)
        self.config = config

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        prior, empty = predict.prior, context.select("null")
        z_t, eps = z, z
        levels = self.path(context.t, context.progress, prior.num_timesteps)  # on the host, where masks are computed
        on_device = [to_device(level, t.device) for level in levels]
        for (low, high), (now, later) in zip(pairwise(levels), pairwise(on_device), strict=True):
            current = at_level(prior, z, z_t, now)
            eps = predict(current, empty, where={"null": high > low})["null"]
            z_t = ddim(prior, z_t, now, eps, later)
        return replace(at_level(prior, z, z_t, t), reference=eps)

    def path(self, t: Int[Tensor, " B"], progress: float, num_timesteps: int) -> list[Int[Tensor, " B"]]:
        """The timesteps of the inversion: from 0 in strides to u, and from u to t. Images with a lower u stay at 0 for
        the first steps."""
        stride, gap = (max(round(part * num_timesteps), 1) for part in (self.config.stride, self.gap(progress)))
        u = (t - gap).clamp_min(0)
        strides = -(-int(u.max()) // stride)
        return [*((u - stride * left).clamp_min(0) for left in reversed(range(strides + 1))), t]

    def gap(self, progress: float) -> float:
        """t - u, as a fraction of the training steps."""
        left = max(0.0, 1 - progress / self.config.gap_falls) if self.config.gap_falls else 0.0
        return self.config.gap + (self.config.gap_start - self.config.gap) * left
