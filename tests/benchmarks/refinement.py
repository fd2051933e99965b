"""Times one refinement of many splats and its neighbour searches, on one core, on all cores, and by cells.

    python tests/benchmarks/refinement.py [--splats 107092] [--device auto] [--repeats 5] [--json FILE]

Columns are methods of finding neighbours: the k-d tree on a CPU with one thread and with torch's number of threads (as
in runs on a CPU), and the grid of cells on ``--device`` (as in runs on other devices). All are timed in one process,
alternating; ``refinement`` is the total: growth, pruning and updated neighbours. The splats are some millimetres off
the packaged body's surface.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

if __name__ == "__main__":  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).parents[2]))

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import load_body
from avatar_gs.core.device import choose_device
from avatar_gs.splats.config import DensityConfig, SmoothingConfig, SplatsConfig
from avatar_gs.splats.density import DistillationStrategy, detached_splats
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points, nearest_by_cells
from avatar_gs.splats.optim import build_optimizers, step_all
from avatar_gs.splats.smoothing import nearest
from avatar_gs.splats.surface import RestSurface, surface_splats

OFF_SURFACE = 0.003
"""Mean distance of splats from the surface in metres."""
Methods = dict[str, tuple[torch.device, int, bool]]
"""By name: the device, torch's threads, and whether cells are used where a tree would serve."""


def methods(device: torch.device) -> Methods:
    """The compared methods."""
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    several = {} if threads == 1 else {f"tree, {threads} threads": (cpu, threads, False)}
    return {"tree, 1 thread": (cpu, 1, False), **several, f"cells, {device.type}": (device, threads, True)}


@contextmanager
def searching(threads: int, cells: bool) -> Iterator[None]:
    """Use this method of finding neighbours within the context."""
    before, tree = torch.get_num_threads(), Points.nearest
    torch.set_num_threads(threads)
    if cells:
        Points.nearest = lambda self, queries, count: nearest_by_cells(  # pyright: ignore[reportAttributeAccessIssue]
            self.points, queries.detach(), min(count, len(self.points))
        )
    try:
        yield
    finally:
        torch.set_num_threads(before)
        Points.nearest = tree


def parts(model: GaussianModel, surface: RestSurface) -> dict[str, Callable[[], Any]]:
    """The timed parts by name."""
    means, normals = model.params["means"].detach(), model.params["normals"].detach()
    sizes = model.scales().detach().amax(-1)
    return {
        "detached splats": lambda: detached_splats(means, sizes, DensityConfig().prune_detached),
        "nearest points of the surface": lambda: surface.refresh(model),
        "neighbours for smoothing": lambda: nearest(means, normals, SmoothingConfig()),
    }


def refinement(model: GaussianModel, surface: RestSurface) -> Callable[[], Any]:
    """One refinement of a copy of the splats, as in long recipes, which do not smooth colours."""
    copy = GaussianModel(model.tensors())
    optimizers = build_optimizers(copy, SplatsConfig().lr)
    for name, parameter in copy.trainable().items():
        parameter.grad = torch.zeros_like(copy.params[name])
    step_all(optimizers)
    config = DensityConfig(start=0.0, every=1, grow_share=0.02, max_splats=2 * len(model))
    strategy = DistillationStrategy(config, 10, copy)
    gradient = torch.rand(len(copy), generator=torch.Generator().manual_seed(0)).to(copy.device)
    strategy.running |= {"grad2d": gradient, "count": torch.ones_like(gradient)}

    def refine() -> None:
        strategy.after_step(copy, optimizers, 0, None, split_seed=0)
        surface.refresh(copy)

    return refine


def measure(splats: int, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Rows of median milliseconds by method, and the speed-up over one thread."""
    body = load_body(BodyConfig(), "cpu")
    generator = torch.Generator().manual_seed(0)
    model = surface_splats(SplatsConfig(count=splats), body.rest(), body.weights, generator)
    with torch.no_grad():
        model.params["means"] += OFF_SURFACE * torch.randn(splats, 3, generator=generator)
    times: dict[str, dict[str, list[float]]] = {}
    compared = methods(device)
    surfaces = {where: RestSurface(load_body(BodyConfig(), where.type).rest()) for where, _, _ in compared.values()}
    for turn in range(repeats + 1):
        for method, (where, threads, cells) in compared.items():
            placed, surface = model.to(where), surfaces[where]
            with searching(threads, cells):
                for name, part in (parts(placed, surface) | {"refinement": refinement(placed, surface)}).items():
                    seconds = _timed(part, where)
                    if turn:  # the first chooses kernels
                        times.setdefault(name, {}).setdefault(method, []).append(seconds)
    rows = []
    for name, by_method in times.items():
        milliseconds = {method: 1e3 * median(seconds) for method, seconds in by_method.items()}
        first = next(iter(milliseconds.values()))
        faster = {method: first / value for method, value in milliseconds.items()}
        rows.append({"part": name, "splats": splats, "milliseconds": milliseconds, "times as fast": faster})
    return rows


def _timed(part: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    part()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a text table."""
    lines = [f"{'milliseconds (times as fast)':<32}" + "".join(f"{method:>24}" for method in rows[0]["milliseconds"])]
    for row in rows:
        cells = (f"{value:.1f} ({row['times as fast'][method]:.2f})" for method, value in row["milliseconds"].items())
        lines.append(f"{row['part']:<32}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splats", type=int, default=107_092)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    given = parser.parse_args(arguments)
    device = torch.device(choose_device(given.device))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{given.splats:,} splats, {torch.get_num_threads()} threads, {name}", flush=True)
    rows = measure(given.splats, device, given.repeats)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
