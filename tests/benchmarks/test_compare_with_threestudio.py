"""The comparison with threestudio, as far as it goes without a checkout of it; ``THREESTUDIO=<checkout>`` gives one."""

import os
import sys
from pathlib import Path

import pytest

from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import full
from tests.benchmarks import compare_with_threestudio, comparison
from tests.benchmarks.comparison import Calls

CHECKOUT = os.environ.get("THREESTUDIO", "")


def test_a_wrong_checkout_is_reported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_with_threestudio", str(tmp_path)])
    with pytest.raises(SystemExit, match="no checkout of threestudio"):
        compare_with_threestudio.main()


@pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO names no checkout of threestudio")
def test_both_sides_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WARM_UP", 0)
    prior = StableDiffusionPrior(Parts(**full.few(tmp_path, "sd15")))
    rows = comparison.measure(compare_with_threestudio.sides(Path(CHECKOUT), prior, 1), 1, prior.device, repeats=1)
    theirs, plain, *_ = rows
    assert len(rows) == 4 and all(row.seconds > 0 for row in rows)
    assert theirs.calls["UNet"] == plain.calls["UNet"] == Calls(2)
    assert (theirs.calls["decoder"], plain.calls["decoder"]) == (Calls(1), Calls(0))
