"""Where avatars of cases are made and looked at."""

from functools import cached_property

import torch

from avatar_gs.body.model import Body
from avatar_gs.lab.metrics.avatar import Pictures, draw
from avatar_gs.lab.metrics.truth import Case, Stage, Truth, draw_truth, neutral_body, set_stage
from avatar_gs.splats.model import GaussianModel


class Theatre:
    """The neutral body, the stage for avatars of it, and right ones of the cases, each drawn once."""

    def __init__(self, device: torch.device) -> None:
        self.body: Body = neutral_body(device)
        self._truths: dict[str, Truth] = {}

    @cached_property
    def stage(self) -> Stage:
        return set_stage()

    def truth(self, case: Case) -> Truth:
        """A right avatar of the case."""
        if case.prompt not in self._truths:
            self._truths[case.prompt] = draw_truth(case, self.stage)
        return self._truths[case.prompt]

    def pictures(self, model: GaussianModel) -> Pictures:
        """An avatar in the stage's views."""
        return draw(model.pose(self.stage.posed), self.stage)
