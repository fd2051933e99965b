"""What guidance itself learns during a run."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.device import all_finite
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors
from avatar_gs.protocols import Adapter

WATCH = 0.98
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""Adam's usual numbers (Kingma and Ba 2015)."""


def denoising_loss(
    eps: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], count: int | None = None
) -> Float[Tensor, ""]:
    """0.5 |eps - noise|^2, summed over an image and averaged over ``count`` images (default: all of the batch)."""
    return 0.5 * (eps - noise).square().sum() / (len(eps) if count is None else count)


class ConsistentText:
    """y_con: a text condition for each bucket of views, as a free output of the text encoder, in float32.

    All rows are one tensor, so that an update is a fixed number of operations, without waiting for a GPU. They learn
    apart: a row that a loss does not depend on keeps its values, its Adam moments and its step count.
    """

    def __init__(self, start: Mapping[Any, Float[Tensor, "L d"]], learning_rate: float, norm_band: float) -> None:
        self.buckets = tuple(start)
        self.values = torch.stack([row.detach().float() for row in start.values()]).requires_grad_(True)
        self.norms = self.values.detach().norm(dim=-1, keepdim=True)
        self.learning_rate, self.norm_band = learning_rate, norm_band
        self.steps = torch.zeros(len(start), dtype=torch.float64, device=self.values.device)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.watched = torch.zeros(2, device=self.values.device)
        """Running means of L_con and L_neg."""
        self.watches = 0

    @property
    def parameters(self) -> dict[Any, Float[Tensor, "L d"]]:
        """The rows by bucket; views of the values."""
        return dict(zip(self.buckets, self.values.detach().unbind(), strict=True))

    def rows(self, buckets: Sequence[Hashable]) -> Float[Tensor, "B L d"]:
        """The rows of a batch of views, with their gradients."""
        with torch.enable_grad():
            row_of = dict(zip(self.buckets, self.values.unbind(), strict=True))
            return torch.stack([row_of[bucket] for bucket in buckets])

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One Adam step on the rows that ``loss`` depends on; then each token's norm is held near its first value.

        A loss whose gradient is not finite leaves all rows as they are. Nothing here waits for a GPU: what stays is
        chosen there.
        """
        (gradient,) = torch.autograd.grad(loss, self.values)
        with torch.no_grad():
            moved = (gradient != 0).flatten(1).any(1) & gradient.isfinite().all()
            everywhere = moved[:, None, None]
            steps = self.steps + 1
            exp_avg = self.exp_avg.lerp(gradient, 1 - BETA1)
            exp_avg_sq = (self.exp_avg_sq * BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            length = _column(-self.learning_rate / (1 - BETA1**steps))
            spread = _column((1 - BETA2**steps).sqrt())
            values = self.values + length * exp_avg / (exp_avg_sq.sqrt() / spread + EPS)
            norm = values.norm(dim=-1, keepdim=True)
            held = norm.clamp(self.norms * (1 - self.norm_band), self.norms * (1 + self.norm_band))
            values = values * (held / norm.clamp_min(1e-12))
            self.values.copy_(values.where(everywhere, self.values))
            self.exp_avg = exp_avg.where(everywhere, self.exp_avg)
            self.exp_avg_sq = exp_avg_sq.where(everywhere, self.exp_avg_sq)
            self.steps = steps.where(moved, self.steps)

    def watch(self, l_con: Float[Tensor, ""], l_neg: Float[Tensor, ""]) -> None:
        """Follow the running means of two denoising errors."""
        self.watches += 1
        fraction = max(1 - WATCH, 1 / self.watches)
        self.watched = self.watched.lerp(torch.stack([l_con, l_neg]).to(self.watched), fraction)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name; a row's moments from its first step on."""
        state = {"watched": self.watched.clone(), "watches": torch.tensor(self.watches)}
        steps = self.steps.tolist()
        for row, bucket in enumerate(self.buckets):
            state[f"y_con.{bucket}"] = self.values[row].detach().clone()
            state[f"norms.{bucket}"] = self.norms[row].clone()
            if steps[row]:
                state[f"adam.step.{bucket}"] = torch.tensor(steps[row], dtype=torch.float32)
                state[f"adam.exp_avg.{bucket}"] = self.exp_avg[row].clone()
                state[f"adam.exp_avg_sq.{bucket}"] = self.exp_avg_sq[row].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` stood; rows without moments begin with none."""
        self.watched, self.watches = state["watched"].to(self.watched), int(state["watches"])
        nothing = torch.zeros_like(self.values[0])
        with torch.no_grad():
            for row, bucket in enumerate(self.buckets):
                self.values[row].copy_(state[f"y_con.{bucket}"])
                self.norms[row].copy_(state[f"norms.{bucket}"])
                self.steps[row] = float(state.get(f"adam.step.{bucket}", 0.0))
                self.exp_avg[row].copy_(state.get(f"adam.exp_avg.{bucket}", nothing))
                self.exp_avg_sq[row].copy_(state.get(f"adam.exp_avg_sq.{bucket}", nothing))


def _column(values: Float[Tensor, " N"]) -> Float[Tensor, "N 1 1"]:
    """One number a row, as a factor of the rows."""
    return values.float()[:, None, None]


class TrainedAdapter:
    """An adapter of the prior with its optimiser."""

    def __init__(self, adapter: Adapter, learning_rate: float) -> None:
        self.adapter = adapter
        self.optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=learning_rate)

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One step on all parameters; a loss whose gradient is not finite leaves them as they are."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if all_finite([p.grad for p in self.adapter.parameters.values() if p.grad is not None]):
            self.optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        values = {f"adapter.{name}": value.detach().clone() for name, value in self.adapter.parameters.items()}
        return values | optimizer_tensors(self.optimizer, self.adapter.parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` stood."""
        with torch.no_grad():
            for name, value in self.adapter.parameters.items():
                value.copy_(state[f"adapter.{name}"])
        load_optimizer_tensors(self.optimizer, self.adapter.parameters, state)
