"""The toy of the page "Why seeds look alike" shows what the page says."""

import runpy
from pathlib import Path

TOY = Path(__file__).parents[2] / "docs" / "examples" / "seeds.py"


def test_only_noise_on_the_surface_keeps_the_odds():
    names = runpy.run_path(str(TOY))
    names["main"].__globals__["TIMES"] = names["TIMES"][::3]
    names["main"].__globals__["STEPS"] = len(names["TIMES"][::3])
    table = names["main"](seeds=24)
    for scale in ("CFG 1", "CFG 7.5 below t = .6"):
        samples, _, falling, _, surface = table[scale]
        assert falling >= 0.95, scale
        assert surface <= 0.8 and abs(surface - samples) <= 0.25, scale
