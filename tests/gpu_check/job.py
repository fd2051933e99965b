"""Make an avatar with the command, report the time of its steps, and keep a small preview image."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH = 1024
NAME = "avatar"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True, help="copy of the last preview")
    parser.add_argument("--seconds", type=float, default=0.0, help="maximum time of all steps; 0: no limit")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "avatar_gs", *options.overrides, f"name={NAME}"]
        code = subprocess.run(command, cwd=folder).returncode
        whole = time.perf_counter() - began
        run = Path(folder) / "outputs" / NAME
        if code:
            return code
        row = figures(run) | {"whole command s": round(whole, 1)}
        options.json.write_text(json.dumps([row]), encoding="utf-8")
        print(row)
        keep_image(run, options.image)
    return row["steps s"] > options.seconds > 0


def figures(run: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["stages"]["optimize"]
    step = found["seconds_per_step"]["total"]
    return {
        "steps": found["steps"],
        "steps s": round(step * found["steps"], 1),
        "ms a step": round(1e3 * step, 1),
        "splats": found["splats"],
        "skipped": found["skipped_steps"],
        **{f"{place} MiB": size for place, size in found["peak_memory_mib"].items()},
        "files": ", ".join(sorted(path.name for path in run.glob("avatar.*"))),
    }


def keep_image(run: Path, target: Path) -> None:
    """The last preview sheet, at most ``WIDTH`` pixels wide."""
    from PIL import Image

    sheets = sorted((run / "previews").glob("step_*.png"))
    if sheets:
        with Image.open(sheets[-1]) as sheet:
            sheet.thumbnail((WIDTH, WIDTH))
            sheet.save(target)


if __name__ == "__main__":
    sys.exit(main())
