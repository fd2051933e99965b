"""Nearest neighbours and connected components: exact, on the device of the points.

On a CPU, a k-d tree is used, with torch's number of threads. On other devices, a grid of cells in torch operations:
points are sorted by cell, and each query searches the 27 cells around it. The result is exact if the last neighbour is
no farther away than a cell's width; the other queries are repeated with cells twice as wide.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

PAIRS = 2**21
"""Distances computed at a time on a device, which takes about 200 MB."""
SAMPLE = 64
"""Number of queries that the first cell width is estimated from …"""
NEAR = 0.9
"""… so that this fraction of them needs one search."""
FINEST = 2**20
"""Largest number of cells along a side of the grid: three such numbers fit into 64 bits."""


class Points:
    """Points to search. The first three coordinates are a position in space; distances are over all coordinates (such
    as normals), if there are more."""

    def __init__(self, points: Float[Tensor, "N D"]) -> None:
        self.points = points.detach()
        self._tree = KDTree(self.points.numpy()) if points.device.type == "cpu" else None

    def nearest(self, queries: Float[Tensor, "M D"], count: int) -> tuple[Float[Tensor, "M K"], Int[Tensor, "M K"]]:
        """The ``count`` points nearest to each query (or all, if there are fewer): ascending distances, and indices."""
        count, queries = min(count, len(self.points)), queries.detach().to(self.points.device)
        if self._tree is None:
            return nearest_by_cells(self.points, queries, count)
        found = self._tree.query(queries.numpy(), k=count, workers=torch.get_num_threads())
        distances, index = (torch.from_numpy(np.reshape(values, (-1, count))) for values in found)
        return distances, index


@torch.no_grad()
def nearest_by_cells(
    points: Float[Tensor, "N D"], queries: Float[Tensor, "M D"], count: int
) -> tuple[Float[Tensor, "M K"], Int[Tensor, "M K"]]:
    """``Points.nearest`` by a grid of cells.

    Args:
        count: at most the number of points.

    Raises:
        ValueError: if a coordinate is not finite.
    """
    distances = points.new_empty(len(queries), count)
    index = torch.empty(len(queries), count, dtype=torch.long, device=points.device)
    if not len(queries):
        return distances, index
    places = torch.cat([points[:, :3], queries[:, :3]])
    low, extent = places.amin(0), float((places.amax(0) - places.amin(0)).amax())
    if not extent < float("inf"):
        raise ValueError("a point has a coordinate that is not finite")
    width = max(_first_width(points, queries, count), extent / FINEST, torch.finfo(torch.float32).tiny)
    left = torch.arange(len(queries), device=points.device)
    while len(left):
        near, which = _Cells(points, low, width, extent).nearest(queries[left], count)
        # Beyond a cell's width there may be nearer points outside the searched cells.
        certain = (near[:, -1] <= width * (1 - 1e-6)) | (width >= extent)
        distances[left[certain]], index[left[certain]] = near[certain], which[certain]
        left, width = left[~certain], 2 * width
    return distances, index


def _first_width(points: Tensor, queries: Tensor, count: int) -> float:
    """A distance within which most queries have their neighbours, estimated from a few of them."""
    some = queries[:: max(1, len(queries) // max(1, min(SAMPLE, PAIRS // len(points))))]
    squares = points.new_zeros(len(some), len(points))
    for own, others in zip(some.T, points.T, strict=True):
        squares += (own[:, None] - others).square()
    return float(squares.topk(count, largest=False).values[:, -1].sqrt().quantile(NEAR))


class _Cells:
    """Points sorted by their cell; ``low`` and ``extent`` are those of the cube around points and queries."""

    def __init__(self, points: Tensor, low: Tensor, width: float, extent: float) -> None:
        self.points, self.low, self.width = points, low, width
        self.side = int(extent / width) + 3
        keys, self.order = self._keys(points).sort(stable=True)
        self.keys = keys.contiguous()

    def _keys(self, places: Tensor) -> Int[Tensor, " N"]:
        """Numbers of cells, consecutive along x, with a margin of one cell."""
        # In doubles: in single precision, a point may fall into a neighbouring cell.
        x, y, z = ((places[:, :3].double() - self.low.double()) / self.width).floor().long().add_(1).unbind(1)
        return (z * self.side + y) * self.side + x

    def nearest(self, queries: Float[Tensor, "M D"], count: int) -> tuple[Float[Tensor, "M K"], Int[Tensor, "M K"]]:
        """The nearest points in the 27 cells around each query; an infinite distance where there are too few."""
        steps = torch.arange(-1, 2, device=queries.device)
        rows = ((steps[:, None] * self.side + steps) * self.side).flatten()
        middle = self._keys(queries)[:, None] + rows  # nine rows of three cells, each one range of the sorted points
        starts = torch.searchsorted(self.keys, middle - 1)
        sizes = torch.searchsorted(self.keys, middle + 1, right=True) - starts
        totals = sizes.sum(1)
        ends = totals.cumsum(0)
        edges = torch.arange(PAIRS, int(ends[-1]) + PAIRS, PAIRS, device=queries.device)
        cuts = sorted({0, *torch.searchsorted(ends, edges, right=True).tolist(), len(queries)})
        parts = [self._nearest(queries[a:b], starts[a:b], sizes[a:b], totals[a:b], count) for a, b in pairwise(cuts)]
        distances, index = (torch.cat(values) for values in zip(*parts, strict=True))
        return distances, index

    def _nearest(
        self, queries: Tensor, starts: Tensor, sizes: Tensor, totals: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        flat = sizes.flatten()
        row = torch.arange(len(flat), device=flat.device).repeat_interleave(flat)
        place = torch.arange(len(row), device=flat.device) - (flat.cumsum(0) - flat - starts.flatten())[row]
        member, owner = self.order[place], row // sizes.shape[1]
        squares = torch.zeros(len(row), device=flat.device)
        for own, others in zip(queries.float().T, self.points.float().T, strict=True):
            squares += (others[member] - own[owner]).square()
        # One sort by owner and distance: the bits of non-negative floats are in the order of their values.
        by_distance = (owner << 32 | squares.view(torch.int32)).argsort(stable=True)
        rank = torch.arange(count, device=flat.device)
        found = rank < totals[:, None]
        picked = (totals.cumsum(0) - totals)[:, None] + rank
        chosen = by_distance[picked[found]]
        distances = self.points.new_full(found.shape, torch.inf)
        index = torch.zeros(found.shape, dtype=torch.long, device=flat.device)
        distances[found], index[found] = squares[chosen].sqrt().to(distances), member[chosen]
        return distances, index


@torch.no_grad()
def components(count: int, one: Int[Tensor, " E"], other: Int[Tensor, " E"]) -> Int[Tensor, " N"]:
    """The smallest index in each node's connected component (FastSV; Zhang, Azad and Hu 2020).

    Args:
        count: number of nodes.
        one: one end of each edge.
        other: the other end.
    """
    ends, starts = torch.cat([one, other]), torch.cat([other, one])
    roots = torch.arange(count, device=one.device)
    while True:
        above = roots[roots]
        lowest = above.scatter_reduce(0, ends, above[starts], "amin")
        hooked = roots.scatter_reduce(0, roots, lowest, "amin").minimum(lowest)
        hooked = hooked[hooked]
        if torch.equal(hooked, roots):
            return roots
        roots = hooked
