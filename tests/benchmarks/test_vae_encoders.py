"""The comparison of encoders runs from a checkout, and compares gradients of the same network."""

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import vae_encoders

SCRIPT = Path(vae_encoders.__file__)


def test_the_command_runs_from_anywhere_without_an_installation(tmp_path):
    file = tmp_path / "rows.json"
    options = ["--few-channels", "--batch=1", "--size=64", "--repeats=2", "--device=cpu", f"--json={file}"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(file.read_text())
    assert len(rows) == 8 and rows[0]["ratio"] == 1 and all(row["name"] in done.stdout for row in rows)
    for row in rows:
        assert row["milliseconds"] > 0
        if row["cosine"] is None:
            assert row["name"].startswith("tiny")
        else:
            assert row["cosine"] > (0.999999 if "float32" in row["name"] else 0.998)
