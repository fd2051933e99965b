"""A grid of cells finds what a k-d tree finds, and components are scipy's, for any positions."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from avatar_gs.splats import neighbours
from avatar_gs.splats.config import SmoothingConfig, SplatsConfig
from avatar_gs.splats.density import detached_splats
from avatar_gs.splats.neighbours import Points, components, nearest_by_cells
from avatar_gs.splats.smoothing import nearest
from avatar_gs.splats.surface import RestSurface, surface_splats


def random(count, width=3, seed=0):
    return torch.rand(count, width, generator=torch.Generator().manual_seed(seed))


def clumps():
    """Dense spots, a sparse rest, and a few points far away from all."""
    return torch.cat(
        [0.001 * random(400), 0.01 * random(300, seed=1) + 0.5, random(200, seed=2), 50 * random(5, seed=3)]
    )


CASES = {
    "even": (random(2000), random(2000), 13),
    "other queries": (random(1500), 2 * random(500, seed=1) - 0.5, 1),
    "with directions": (random(1500, 6), random(1500, 6), 9),
    "a plane": (random(1500) * torch.tensor([1.0, 1.0, 0.0]), random(1500) * torch.tensor([1.0, 1.0, 0.0]), 5),
    "clumps": (clumps(), clumps(), 13),
    "queries far away": (random(300), 1000 + random(20), 4),
    "all of them": (random(7), random(7), 7),
    "a single point": (random(1), random(3), 1),
    "all in one place": (torch.ones(40, 3), torch.ones(40, 3), 5),
}


@pytest.mark.parametrize("pairs", [neighbours.PAIRS, 3000])
@pytest.mark.parametrize("case", CASES)
def test_cells_and_tree_find_the_same_neighbours(case, pairs, monkeypatch):
    """Also in parts, some of a single query."""
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    points, queries, count = CASES[case]
    distances, index = nearest_by_cells(points, queries, count)
    expected, _ = KDTree(points.numpy()).query(queries.numpy(), k=count)
    expected = torch.from_numpy(np.reshape(expected, (-1, count)))
    torch.testing.assert_close(distances.double(), expected, atol=1e-7, rtol=1e-6)
    own = (points[index].double() - queries[:, None].double()).norm(dim=-1)
    torch.testing.assert_close(own, expected, atol=1e-7, rtol=1e-6)
    assert all(len(set(row)) == count for row in index.tolist()), "each point once"


def test_more_neighbours_than_points_give_all_points():
    distances, index = Points(random(4)).nearest(random(2, seed=1), 9)
    assert distances.shape == (2, 4) and index.sort(1).values.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_coordinates_that_are_not_finite_are_refused(bad):
    points = random(5)
    points[2, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        nearest_by_cells(points, random(3), 1)


def chain(count, order):
    nodes = torch.arange(count)
    if order == "reversed":
        nodes = nodes.flip(0)
    if order == "shuffled":
        nodes = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return count, nodes[:-1], nodes[1:]


def scattered(count, edges):
    one, other = torch.randint(count, (2, edges), generator=torch.Generator().manual_seed(1))
    return count, one, other


@pytest.mark.parametrize(
    "graph",
    [
        *(chain(5000, order) for order in ("in order", "reversed", "shuffled")),
        scattered(3000, 1000),
        scattered(3000, 2500),
        (50, torch.arange(49), torch.full((49,), 49)),
        (20, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)),
        (1, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)),
    ],
)
def test_components_equal_scipys(graph):
    count, one, other = graph
    found = components(count, one, other)
    matrix = coo_matrix((np.ones(len(one), bool), (one.numpy(), other.numpy())), shape=(count, count))
    _, expected = connected_components(matrix, directed=False)
    for group in np.unique(expected):
        members = np.flatnonzero(expected == group)
        assert (found[members] == members[0]).all(), "the smallest number of its component"


def test_splats_have_the_same_neighbours_by_tree_and_cells(tube, tube_weights, monkeypatch):
    """What densification and smoothing ask, by the tree of a CPU and by the cells of other devices."""
    model = surface_splats(SplatsConfig(count=1500), tube, tube_weights, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.params["means"] += 0.01 * torch.randn(len(model), 3, generator=generator)
        model.params["means"][:5] += torch.tensor([0.0, 0.4, 0.0])
    surface = RestSurface(tube, count=3000)

    def found():
        means, sizes = model.params["means"].detach(), model.scales().detach().amax(-1)
        surface.refresh(model)
        index, strength = nearest(means, model.params["normals"].detach(), SmoothingConfig())
        return detached_splats(means, sizes, 2.5), model.params["anchors"].clone(), index, strength

    by_tree = found()
    assert 0 < int(by_tree[0].sum()) < 100, "some splats are detached"
    by_cells = lambda points, queries, count: nearest_by_cells(points.points, queries.detach(), count)
    monkeypatch.setattr(Points, "nearest", by_cells)
    for first, second in zip(by_tree, found(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)
