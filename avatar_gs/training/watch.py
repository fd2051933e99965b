"""Signs that a run diverges although all its numbers are finite, each reported once."""

import logging

import torch

from avatar_gs.training.state import TrainingState
from avatar_gs.types import Render

LOGGER = logging.getLogger(__name__)

WATCH_EVERY = 25
"""Steps between two looks."""
TRANSPARENT = 0.1
"""Largest alpha of a render that counts as empty."""
GROWN = 3.0
"""Median splat size, in median initial sizes, that counts as exploded."""
RAILS, AT_RAIL = 0.9, 1e-3
"""Fraction of colour channels within ``AT_RAIL`` of 0 or 1 that counts as saturated."""


class Watch:
    """Looks at the avatar now and then, and warns of each sign of divergence the first time that it is seen."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    @torch.no_grad()
    def look(self, state: TrainingState, render: Render) -> None:
        """Warn of what is wrong with the avatar after a step; synchronises with the device.

        Args:
            state: after the step.
            render: of the step's views.
        """
        for sign, words in signs(state, render).items():
            if sign not in self.seen:
                self.seen.add(sign)
                LOGGER.warning("step %d: the run diverges: %s", state.step, words)


def signs(state: TrainingState, render: Render) -> dict[str, str]:
    """What is wrong with the avatar, by name, with what to change; empty if nothing is."""
    model, found = state.model, {}
    if float(render.alpha.max()) < TRANSPARENT:
        found["transparent"] = (
            "the avatar is transparent in all views; lower splats.lr.opacities, optimize.losses.opacity or "
            "optimize.geometry.transmittance"
        )
    # A splat cannot grow beyond max_scale, so a limit below the factor counts as reached.
    unit, median = float(state.strategy.unit), float(model.scales().amax(-1).median())
    if median > min(GROWN * unit, 0.98 * model.max_scale) and median > 1.5 * unit:
        found["large"] = (
            f"half of the splats are at least {median / unit:.1f} times as large as at the start; lower "
            "splats.lr.scales or splats.max_scale, or raise optimize.losses.scale"
        )
    colors = model.colors()
    saturated = float(((colors < AT_RAIL) | (colors > 1 - AT_RAIL)).float().mean())
    if saturated > RAILS:
        found["saturated"] = (
            f"{100 * saturated:.0f} % of the colours are at 0 or 1; lower guidance.cfg_scale or splats.lr.sh0"
        )
    return found
