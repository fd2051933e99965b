"""Splats that hang in the air: small groups that touch nothing else."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatar_gs.splats.neighbours import Points, components

NEIGHBOURS = 12
SMALL = 0.005
"""A group of at most this share of the splats is taken for loose; a hand has several times as many."""
SCATTERED = 0.1
"""Where more than this share would be loose, splats do not make up a surface (yet), and none is."""


@torch.no_grad()
def detached(means: Float[Tensor, "N 3"], sizes: Float[Tensor, " N"], reach: float) -> Bool[Tensor, " N"]:
    """Which splats belong to a small group apart from all the rest.

    Two splats touch if they are less than ``reach`` times the sum of their ``sizes`` (the longest standard deviation,
    metres) apart; of each splat, the ``NEIGHBOURS`` nearest are looked at.
    """
    count = len(means)
    distances, nearest = Points(means).nearest(means, NEIGHBOURS + 1)
    one, place = (distances <= reach * (sizes[:, None] + sizes[nearest])).nonzero().unbind(1)
    groups = components(count, one, nearest[one, place])
    loose = torch.bincount(groups, minlength=count)[groups] <= int(SMALL * count)
    return loose & (loose.double().mean() <= SCATTERED)
