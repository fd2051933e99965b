"""VSD: Variational Score Distillation (Wang et al. 2023, ProlificDreamer, arXiv:2305.16213)."""

from collections.abc import Mapping
from dataclasses import dataclass

from avatar_gs.core.device import all_finite, to_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.lazy import Float, Tensor, torch
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors
from avatar_gs.core.validation import bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import (
    Context,
    Method,
    MethodConfig,
    Noised,
    Predictor,
    Residual,
    Setup,
    denoising_loss,
    independent,
    uniforms,
)
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, draw_times
from avatar_gs.protocols import AdaptablePrior, Adapter

ALL_LEVELS = ScheduleConfig(kind=ScheduleKind.uniform, t_min=0.0, t_max=1.0)


@dataclass
class VsdConfig(MethodConfig):
    """Variational Score Distillation: a LoRA of the prior learns to denoise the renders, given their cameras."""

    section = "guidance.vsd"
    through_adapter = True

    learning_rate: float = bounded(1e-4, 0)
    """AdamW's learning rate of the LoRA, 0 or more."""
    rank: int = bounded(4, 1, 256)
    """Rank of the LoRA, 1 to 256."""
    camera_dropout: float = bounded(0.1, 0, 1, expected="a fraction, 0 to 1")
    """Fraction of images that the LoRA learns from without their camera."""

    def build(self, setup: Setup) -> "Vsd":
        if not isinstance(setup.prior, AdaptablePrior):
            raise UserError(
                f"guidance=vsd trains a LoRA of the prior, and {setup.prior.name} takes none: choose another guidance"
            )
        return Vsd(self, setup.cfg, TrainedAdapter(setup.prior.adapter(self.rank), self.learning_rate))


class TrainedAdapter:
    """An adapter of the prior with its optimiser."""

    def __init__(self, adapter: Adapter, learning_rate: float) -> None:
        self.adapter = adapter
        self.optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=learning_rate)

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One step of AdamW; a loss with a non-finite gradient changes nothing."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if all_finite([p.grad for p in self.adapter.parameters.values() if p.grad is not None]):
            self.optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and optimiser state by name."""
        values = {f"adapter.{name}": value.detach().clone() for name, value in self.adapter.parameters.items()}
        return values | optimizer_tensors(self.optimizer, self.adapter.parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a ``state_dict``."""
        with torch.no_grad():
            for name, value in self.adapter.parameters.items():
                value.copy_(state[f"adapter.{name}"])
        load_optimizer_tensors(self.optimizer, self.adapter.parameters, state)


class Vsd(Method):
    """``delta = cfg_s(z_t) - eps_lora(z_t; text, camera)``. The LoRA minimises the denoising loss on the renders, with
    its own timestep and noise."""

    def __init__(self, config: VsdConfig, cfg: Cfg, adapter: TrainedAdapter) -> None:
        self.config = config
        self.cfg = cfg
        self.learnable: TrainedAdapter = adapter

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        text, control, adapter = context.conditions["text"], predict.control, self.learnable.adapter
        eps_hat = self.cfg(predict(noised, context.select(*self.cfg.names)))
        eps_lora = adapter.eps(noised.z_t, noised.t, text, control, context.cameras).to(noised.z)
        generators = context.generators
        t = draw_times(ALL_LEVELS, context.progress, uniforms(generators), predict.prior.num_timesteps)
        t = to_device(t, noised.t.device)
        other = independent(predict.prior, noised.z, t, generators)
        with torch.enable_grad():
            prediction = adapter.eps(other.z_t, t, text, control, self._dropped_out(context)).to(noised.z)
            loss = denoising_loss(prediction, other.reference)
        return Residual(eps_hat - eps_lora, eps_hat, loss, logs={"L_lora": 2 * loss.detach() / noised.z[0].numel()})

    def _dropped_out(self, context: Context) -> Float[Tensor, "B 16"] | None:
        """The cameras, set to zero for a fraction of the images."""
        if context.cameras is None:
            return None
        kept = uniforms(context.generators) >= self.config.camera_dropout
        return context.cameras * to_device(kept[:, None].to(context.cameras.dtype), context.cameras.device)
