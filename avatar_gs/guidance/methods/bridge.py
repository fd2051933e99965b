"""Bridge: a second stage for any method (McAllister et al. 2024, arXiv:2406.09417)."""

from dataclasses import dataclass

from avatar_gs.core.lazy import Float, Int, Tensor
from avatar_gs.core.validation import Section, bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, Method, Noised, Predictor, Residual
from avatar_gs.types import BucketPrompt


@dataclass
class BridgeConfig(Section):
    """Bridge, a second stage for any method: the gradient leads from the text with words for bad images to the text."""

    section = "guidance.bridge"

    start: float = bounded(1.0, 0, 1, expected="a fraction of the run, 0 to 1 (1 is off)")
    """Fraction of the run at which the second stage starts; 1 is off."""
    words: str = ""
    """Words for bad images, added to every prompt; empty: the negative prompt. Published: "oversaturated, smooth,
    pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"."""


class Bridge(Method):
    """The method ``first`` until the fraction ``start`` of the run; then ``delta = cfg_s(z_t) - eps(corrupt)``, where
    cfg_s has ``corrupt``, the text with words for bad images, as its unconditional condition."""

    def __init__(self, first: Method, start: float, cfg: Cfg) -> None:
        self.first = first
        self.start = start
        self.cfg = cfg
        self.warmup = first.warmup
        self.learnable = first.learnable

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        if self._second_stage(context):
            return super().noise(z, t, predict, context)
        return self.first.noise(z, t, predict, context)

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        if not self._second_stage(context):
            return self.first(noised, predict, context)
        eps = predict(noised, context.select(*self.cfg.names, "corrupt"))
        eps_hat = self.cfg(eps)
        return Residual(eps_hat - eps["corrupt"], eps_hat)

    def _second_stage(self, context: Context) -> bool:
        return context.progress >= self.start and not context.warming_up


def corrupt_prompt(config: BridgeConfig, prompt: BucketPrompt) -> dict[str, str]:
    """The extra prompt of Bridge, for ``BucketPrompt.extra``; none if it is off."""
    if config.start >= 1:
        return {}
    return {"corrupt": f"{prompt.positive}, {config.words or prompt.negative}"}
