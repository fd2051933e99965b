"""Bridge (McAllister et al. 2024): a second stage for any method."""

from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Method, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg


class Bridge(Plain):
    """The ``first`` method until the share ``start`` of the run; then delta = s [eps(text) - eps(corrupt)], where
    ``corrupt`` is the text with the words of bad pictures: the way from what renders look like to what they should."""

    def __init__(self, first: Method, start: float, cfg: Cfg) -> None:
        self.first = first
        self.start = start
        self.cfg = cfg
        self.warmup = first.warmup
        self.learnable = first.learnable

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        if self._crossed(context):
            return super().noise(z, t, predict, context)
        return self.first.noise(z, t, predict, context)

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        if not self._crossed(context):
            return self.first(noised, predict, context)
        eps = predict(noised, context.asked(*self.cfg.names, "corrupt"))
        eps_hat = self.cfg(eps)
        return Residual(eps_hat - eps["corrupt"], eps_hat)

    def _crossed(self, context: Context) -> bool:
        return context.progress >= self.start and not context.warming_up
