"""The small networks beside the scorer: how they are trained."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.train import OnStep, rate
from avatar_gs.lab.train_prior.checkpoint import restore, save

LR = 2e-3


def train_small(
    net: nn.Module,
    loss_of: Callable[[torch.Generator], Float[Tensor, ""]],
    config: ScorerConfig,
    checkpoint: Path,
    on_step: OnStep,
    *,
    steps: int,
    weight_decay: float,
) -> None:
    """AdamW on a loss that draws its own batch with each step's generator; goes on from ``checkpoint`` if it is there,
    and ends as it would have ended without a stop."""
    parameters = dict(net.named_parameters())
    adam = torch.optim.AdamW(parameters.values(), lr=LR, weight_decay=weight_decay)
    for step in range(restore(checkpoint, parameters, adam), steps):
        adam.param_groups[0]["lr"] = LR * rate(step, steps)
        loss = loss_of(torch.Generator().manual_seed(config.seed * 1_000_003 + step))
        adam.zero_grad()
        loss.backward()
        adam.step()
        done = step + 1
        if done % config.checkpoint_every == 0 or done == steps:
            save(checkpoint, done, parameters, adam)
        on_step(done, steps, float(loss.detach()))
