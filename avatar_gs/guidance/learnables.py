"""What guidance itself learns during a run."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

WATCH = 0.98


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
            for key, value in self.optimizer.state.get(row, {}).items():
                state[f"adam.{key}.{bucket}"] = value.detach().clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` stood."""
        self.watched, self.watches = state["watched"].clone().cpu(), int(state["watches"])
        self.optimizer.state.clear()
        for bucket, row in self.parameters.items():
            with torch.no_grad():
                row.copy_(state[f"y_con.{bucket}"])
            self.norms[bucket] = state[f"norms.{bucket}"].to(row)
            if f"adam.step.{bucket}" in state:  # Adam keeps its step count on the CPU
                moments = {key: state[f"adam.{key}.{bucket}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
                self.optimizer.state[row] = {
                    key: value.to("cpu" if key == "step" else row.device) for key, value in moments.items()
                }
