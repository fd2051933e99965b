"""Splats that hang in the air: small groups that touch nothing else."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

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
    places, radii = means.cpu().numpy(), sizes.cpu().numpy()
    count = len(places)
    distances, nearest = KDTree(places).query(places, k=min(NEIGHBOURS + 1, count))
    distances, nearest = np.reshape(distances, (count, -1)), np.reshape(nearest, (count, -1))
    touching = distances <= reach * (radii[:, None] + radii[nearest])
    rows = np.repeat(np.arange(count), nearest.shape[1])[touching.ravel()]
    graph = coo_matrix((np.ones(len(rows), bool), (rows, nearest[touching])), shape=(count, count))
    _, groups = connected_components(graph, directed=False)
    loose = np.bincount(groups)[groups] <= SMALL * count
    if loose.mean() > SCATTERED:
        loose[:] = False
    return torch.from_numpy(loose).to(means.device)
