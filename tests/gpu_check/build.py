"""Build gsplat's kernels (on a CPU: compile our renderer), and render a few splats forward and backward."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

import torch

from avatar_gs.lab.benchmarks.renderers import person_scene
from avatar_gs.render.rasterize import rasterize, require_renderer
from avatar_gs.types import Gaussians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--nice", type=int, default=0, help="niceness of the compilers")
    options = parser.parse_args()
    os.nice(options.nice)
    require_renderer(options.device)
    began = time.perf_counter()
    render(options.device)
    first = time.perf_counter() - began
    began = time.perf_counter()
    render(options.device)
    again = time.perf_counter() - began
    row = {"renderer on": options.device, "first drawing s": round(first, 1), "again ms": round(1e3 * again, 1)}
    options.json.write_text(json.dumps([row]), encoding="utf-8")
    print(row)


def render(device: str) -> None:
    scene = person_scene(1000, 64, device=device)
    splats = Gaussians(*[value.clone().requires_grad_() for value in vars(scene.splats).values()])
    rasterize(splats, scene.cameras).rgb.sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    assert splats.means.grad is not None and bool(splats.means.grad.any())


if __name__ == "__main__":
    main()
