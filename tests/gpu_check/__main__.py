"""Test and time this program on a GPU within eight minutes: `make gpu-check`, or `python tests/gpu_check`.

The checkout need not be installed, and nothing is downloaded. Every part is a process with a time limit; parts that
fail, overrun or cannot run are reported and the rest continues. report.md, report.json and log.txt are written after
every part. The exit code is 0 if every part that ran has passed, 1 if one has not, 2 without a GPU.

THREESTUDIO, GAUSSIANIP and SD21 name folders: checkouts of these programs, and Stable Diffusion 2.1's weights.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

from tests.gpu_check import plan, report
from tests.gpu_check.running import ROOT, Check, Outcome, Status

ENDED = {Status.passed, Status.not_run}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    chosen = plan.Options(
        trial=options.trial, **{name: plan.folder(os.environ.get(name.upper(), "")) for name in FOLDERS}
    )
    waves = plan.plan(chosen)
    factor = options.budget / plan.BUDGET
    waves = plan.scaled(plan.only(waves, options.parts) if options.parts else waves, factor)
    if options.trial:
        waves = plan.in_turn(waves)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in ("report.md", "report.json", "log.txt", "avatar.png", "sd21.png"):
        (out / old).unlink(missing_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    heading = "GPU check" + (": a TRIAL on the CPU with few channels; times are meaningless" if options.trial else "")

    def write(outcomes: Sequence[Outcome]) -> None:
        report.write(out, heading, outcomes, check.elapsed())

    check = Check(out, scratch, options.budget, write)
    signal.signal(signal.SIGTERM, _leave)
    try:
        check.run(waves)
    finally:
        write(check.outcomes)
        shutil.rmtree(scratch, ignore_errors=True)
    print((out / "report.md").read_text(encoding="utf-8"))
    print(f"report: {out / 'report.md'}")
    return exit_code(check.outcomes)


FOLDERS = ("threestudio", "gaussianip", "sd21")


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """2 without a GPU, else 1 if a part that ran has not passed."""
    machine = next((outcome for outcome in outcomes if outcome.name == "machine"), None)
    if machine is not None and machine.status is Status.failed:
        return 2
    return int(any(outcome.status not in ENDED for outcome in outcomes))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu-check", help="the report's folder")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=[], help="names or prefixes, a,b,c")
    parser.add_argument(
        "--budget", type=float, default=plan.BUDGET, help="seconds; the parts' limits are scaled with it"
    )
    parser.add_argument("--trial", action="store_true", help="on the CPU with few channels, to find trivial errors")
    return parser.parse_args(arguments)


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
