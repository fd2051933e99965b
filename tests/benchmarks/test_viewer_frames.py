"""The benchmark of the page's frames runs and reports every view; its figures are no test."""

import json
import shutil

import pytest

from tests.benchmarks import viewer_frames


def test_it_reports_every_view(capsys: pytest.CaptureFixture[str]) -> None:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("needs chromium, chromium-browser or google-chrome on PATH (apt install chromium)")
    viewer_frames.main(["--splats", "300", "--size", "200", "160", "--frames", "5", "--rounds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == viewer_frames.VIEWS.keys()
    assert all(values["frame_ms"] > 0 and values["sort_ms"] >= 0 for values in found.values())
    assert all(values["detail"] == 1 for name, values in found.items() if "adaptive" not in name)
