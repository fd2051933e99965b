"""What guidance itself learns during a run."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.types import Adapter

WATCH = 0.98


def denoising_loss(eps: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """0.5 |eps - noise|^2, summed over a picture and averaged over the batch."""
    return 0.5 * (eps - noise).square().sum() / len(eps)


class ConsistentText:
    """y_con: a text condition for each bucket of views, as a free output of the text encoder, in float32.

    Each row is a parameter of its own: a row that a batch does not show keeps its values *and* its Adam moments still.
    """

    def __init__(self, start: Mapping[str, Float[Tensor, "L d"]], learning_rate: float, norm_band: float) -> None:
        self.parameters = {b: row.detach().float().clone().requires_grad_(True) for b, row in start.items()}
        self.norms = {b: row.detach().norm(dim=-1, keepdim=True) for b, row in self.parameters.items()}
        self.norm_band = norm_band
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=learning_rate)
        self.watched = torch.zeros(2)
        """Running means of L_con and L_neg."""
        self.watches = 0

    def rows(self, buckets: Sequence[str]) -> Float[Tensor, "B L d"]:
        """The rows of a batch of views, with their gradients."""
        with torch.enable_grad():
            return torch.stack([self.parameters[bucket] for bucket in buckets])

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One Adam step on the rows that ``loss`` depends on; then each token's norm is held near its first value."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not all(row.grad is None or bool(row.grad.isfinite().all()) for row in self.parameters.values()):
            return
        self.optimizer.step()
        with torch.no_grad():
            for bucket, row in self.parameters.items():
                if row.grad is not None:
                    norm = row.norm(dim=-1, keepdim=True)
                    first = self.norms[bucket]
                    held = norm.clamp(first * (1 - self.norm_band), first * (1 + self.norm_band))
                    row.mul_(held / norm.clamp_min(1e-12))

    def watch(self, l_con: Float[Tensor, ""], l_neg: Float[Tensor, ""]) -> None:
        """Follow the running means of two denoising errors."""
        self.watches += 1
        share = max(1 - WATCH, 1 / self.watches)
        self.watched = self.watched.lerp(torch.stack([l_con, l_neg]).float().cpu(), share)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        state = {"watched": self.watched.clone(), "watches": torch.tensor(self.watches)}
        for bucket, row in self.parameters.items():
            state[f"y_con.{bucket}"] = row.detach().clone()
            state[f"norms.{bucket}"] = self.norms[bucket].clone()
        return state | adam_state(self.optimizer, self.parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` stood."""
        self.watched, self.watches = state["watched"].clone().cpu(), int(state["watches"])
        for bucket, row in self.parameters.items():
            with torch.no_grad():
                row.copy_(state[f"y_con.{bucket}"])
            self.norms[bucket] = state[f"norms.{bucket}"].to(row)
        load_adam_state(self.optimizer, self.parameters, state)


class TrainedAdapter:
    """An adapter of the prior with its optimiser."""

    def __init__(self, adapter: Adapter, learning_rate: float) -> None:
        self.adapter = adapter
        self.optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=learning_rate)

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One step on all parameters; a loss whose gradient is not finite leaves them as they are."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if all(p.grad is None or bool(p.grad.isfinite().all()) for p in self.adapter.parameters.values()):
            self.optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        values = {f"adapter.{name}": value.detach().clone() for name, value in self.adapter.parameters.items()}
        return values | adam_state(self.optimizer, self.adapter.parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` stood."""
        with torch.no_grad():
            for name, value in self.adapter.parameters.items():
                value.copy_(state[f"adapter.{name}"])
        load_adam_state(self.optimizer, self.adapter.parameters, state)


def adam_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments of Adam as ``adam.<moment>.<parameter>``."""
    return {
        f"adam.{key}.{name}": value.detach().clone()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_adam_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """What ``adam_state`` gave; parameters that it does not name begin anew."""
    optimizer.state.clear()
    for name, parameter in parameters.items():
        if f"adam.step.{name}" in state:  # Adam keeps its step count on the CPU
            optimizer.state[parameter] = {
                key: state[f"adam.{key}.{name}"].clone().to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
