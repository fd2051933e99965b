"""Where avatars of cases are made and looked at."""

from functools import cached_property

import torch

from avatar_gs.body.model import Body
from avatar_gs.lab.metrics.avatar import ViewImages, render_views
from avatar_gs.lab.metrics.truth import Case, Truth, render_truth
from avatar_gs.lab.metrics.views import Viewpoints, neutral_body, standard_viewpoints
from avatar_gs.splats.model import GaussianModel


class Theatre:
    """The neutral body, the viewpoints for avatars of it, and right ones of the cases, each drawn once."""

    def __init__(self, device: torch.device) -> None:
        self.body: Body = neutral_body(device)
        self._truths: dict[str, Truth] = {}

    @cached_property
    def viewpoints(self) -> Viewpoints:
        return standard_viewpoints()

    def truth(self, case: Case) -> Truth:
        """A right avatar of the case."""
        if case.prompt not in self._truths:
            self._truths[case.prompt] = render_truth(case, self.viewpoints)
        return self._truths[case.prompt]

    def pictures(self, model: GaussianModel) -> ViewImages:
        """An avatar in the viewpoints's views."""
        return render_views(model.pose(self.viewpoints.posed), self.viewpoints.views.cameras)
