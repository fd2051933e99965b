"""Times a frame of ``avatar.html`` in a headless Chromium, which renders in software: still, turning and moving.

    python tests/benchmarks/viewer_frames.py --splats 7000 --size 640 480

Compares the page of an avatar that cannot move with that of one that can, at a fixed resolution. A frame's time is that
of the page's script and of drawing, until the pixels are there; a sort's is that of the worker. The adaptive resolution
is shown by itself.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).parents[2]))

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import load_body
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import surface_splats
from avatar_gs.stages.export import avatar_rig, standing, standing_pose
from avatar_gs.viewer.html import write_html
from tests.viewer.conftest import Chromium

Figures = dict[str, dict[str, float]]
MEASURE = """
window.times = [];
const draw = WebGL2RenderingContext.prototype.drawElementsInstanced, ask = window.requestAnimationFrame.bind(window);
let drawn = false;
WebGL2RenderingContext.prototype.drawElementsInstanced = function (...values) {
  draw.apply(this, values);
  this.readPixels(0, 0, 1, 1, this.RGBA, this.UNSIGNED_BYTE, new Uint8Array(4));  // waits for the pixels
  drawn = true;
};
window.requestAnimationFrame = (callback) => ask((time) => {
  const began = performance.now();
  drawn = false;
  callback(time);
  if (drawn) window.times.push(performance.now() - began);
});
"""
VIEWS = {
    "cannot move, turning": ("still", "spin=1&detail=1"),
    "can move, standing, turning": ("moving", "spin=1&detail=1&motion=none"),
    "can move, walking, turning": ("moving", "spin=1&detail=1&motion=walk"),
    "can move, walking, adaptive resolution": ("moving", "spin=1&motion=walk"),
}


def measure(chromium: Chromium, pages: dict[str, Path], size: tuple[int, int], frames: int, rounds: int) -> Figures:
    """Milliseconds of a frame and of a sort, and the fraction of the resolution, of each view.

    Views take turns. The lower quartile counts: other work on the machine makes frames slower, none makes them faster.
    """
    times: dict[str, list[float]] = {name: [] for name in VIEWS}
    sorts: dict[str, list[float]] = {name: [] for name in VIEWS}
    details: dict[str, float] = {}
    for _ in range(rounds):
        for name, (page, options) in VIEWS.items():
            chromium.open(pages[page], f"{options}&controls=0", size)
            chromium.wait("times.length > 20")  # the first ones compile
            chromium.evaluate("times.length = 0, window.sorts = []")
            chromium.evaluate(
                "new MutationObserver(() => sorts.push(Number(document.documentElement.dataset.sort)))"
                ".observe(document.documentElement, {attributeFilter: ['data-sort']})"
            )
            chromium.wait(f"times.length >= {frames}")
            times[name] += chromium.evaluate("times")
            sorts[name] += chromium.evaluate("sorts")
            details[name] = float(chromium.evaluate("document.documentElement.dataset.detail"))
    low = lambda values: round(float(np.quantile(values or [0.0], 0.25)), 2)
    return {
        name: {"frame_ms": low(times[name]), "sort_ms": low(sorts[name]), "detail": details[name]} for name in VIEWS
    }


def write_pages(folder: Path, splats: int) -> dict[str, Path]:
    """A page whose avatar cannot move and one whose avatar can, with the same splats."""
    body = load_body(BodyConfig(path=str(FREE_BODY)))
    model = surface_splats(SplatsConfig(count=splats), body.rest(), body.weights, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.params["opacities"].fill_(2.0)
    gaussians, posed = standing(model, body)
    pages = {name: folder / f"{name}.html" for name in ("still", "moving")}
    write_html(pages["still"], gaussians, "still")
    write_html(pages["moving"], gaussians, "moving", avatar_rig(model, body, posed, standing_pose(body)))
    return pages


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splats", type=int, default=7000)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("error: needs chromium, chromium-browser or google-chrome on PATH")
    with tempfile.TemporaryDirectory() as folder:
        chromium = Chromium(program, Path(folder) / "profile")
        try:
            chromium.send("Page.addScriptToEvaluateOnNewDocument", source=MEASURE)
            pages = write_pages(Path(folder), options.splats)
            found = measure(chromium, pages, tuple(options.size), options.frames, options.rounds)
        finally:
            chromium.close()
    if options.json:
        print(json.dumps(found))
        return
    first = next(iter(found.values()))["frame_ms"]
    print(
        f"{options.splats} splats at {options.size[0]} x {options.size[1]}, {options.rounds} x {options.frames} frames"
    )
    for name, values in found.items():
        ratio = values["frame_ms"] / first
        print(
            f"{name:<40}{values['frame_ms']:8.1f} ms a frame ({ratio:.2f} ×), sort {values['sort_ms']:.1f} ms, "
            f"resolution {values['detail']:.2f}"
        )


if __name__ == "__main__":
    main()
