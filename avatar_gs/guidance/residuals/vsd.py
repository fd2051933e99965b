"""VSD: Variational Score Distillation (Wang et al. 2023, ProlificDreamer)."""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, ScheduleConfig, ScheduleKind, VsdConfig
from avatar_gs.guidance.learnables import TrainedAdapter, denoising_loss
from avatar_gs.guidance.noise import Noised, independent, uniforms
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.schedule import draw_times
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import AdaptablePrior, Prior

ALL_LEVELS = ScheduleConfig(kind=ScheduleKind.uniform, t_min=0.0, t_max=1.0)


class Vsd(Plain):
    """delta = cfg_s - eps_lora(z_t; text, camera). The LoRA learns to denoise the renders, at a t and a noise of
    its own."""

    def __init__(self, config: VsdConfig, cfg: Cfg, adapter: TrainedAdapter) -> None:
        self.config = config
        self.cfg = cfg
        self.learnable: TrainedAdapter = adapter

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        text, control, adapter = context.conditions["text"], predict.control, self.learnable.adapter
        eps_hat = self.cfg(predict(noised, context.asked(*self.cfg.names)))
        eps_lora = adapter.eps(noised.z_t, noised.t, text, control, context.cameras).to(noised.z)
        generators = context.generators
        t = draw_times(ALL_LEVELS, context.progress, uniforms(generators), predict.prior.num_timesteps)
        t = to_device(t, noised.t.device)
        other = independent(predict.prior, noised.z, t, generators)
        with torch.enable_grad():
            guess = adapter.eps(other.z_t, t, text, control, self._some(context)).to(noised.z)
            loss = denoising_loss(guess, other.reference)
        return Residual(eps_hat - eps_lora, eps_hat, loss, logs={"L_lora": 2 * loss.detach() / noised.z[0].numel()})

    def _some(self, context: Context) -> Float[Tensor, "B 16"] | None:
        """The cameras, a share of them unsaid."""
        if context.cameras is None:
            return None
        said = uniforms(context.generators) >= self.config.camera_dropout
        return context.cameras * to_device(said[:, None].to(context.cameras.dtype), context.cameras.device)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Vsd:
    if not isinstance(prior, AdaptablePrior):
        raise UserError(
            f"guidance=vsd trains a LoRA of the prior, and {prior.name} takes none: choose another guidance"
        )
    adapter = TrainedAdapter(prior.adapter(config.vsd.rank), config.vsd.learning_rate)
    return Vsd(config.vsd, Cfg.of(config), adapter)
