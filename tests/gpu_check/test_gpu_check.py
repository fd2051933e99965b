"""The check: passing, failing, overrunning and skipped parts; report, exit code and time."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from avatar_gs.cli.overrides import settings_of
from tests.benchmarks import steps
from tests.gpu_check import __main__ as check
from tests.gpu_check import plan, report
from tests.gpu_check.running import ROOT, Check, Outcome, Part, Status, read_rows, read_tests

ROWS = "import json, sys; json.dump([{'a': 1, 'b': 'x|y'}], open(sys.argv[1], 'w')); print('done')"
FAIL = "import sys; print('before'); sys.exit('what went wrong')"
CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(f'[{{"child": {child.pid}}}]')
time.sleep(60)
"""


def script(name: str, code: str, limit: float = 60, **more: Any) -> Part:
    return Part(name, f"What {name} finds", (sys.executable, "-c", code, "{json}"), limit, **more)


def run(tmp_path: Path, waves: list[list[list[Part]]], budget: float = 100.0) -> tuple[dict[str, Outcome], list[str]]:
    """The outcomes by name, and the report after each part."""
    (tmp_path / "scratch").mkdir()
    seen = []

    def write(outcomes: list[Outcome]) -> None:
        report.write(tmp_path, "A check", outcomes, 1.0)
        seen.append((tmp_path / "report.md").read_text())

    one = Check(tmp_path, tmp_path / "scratch", budget, write)
    one.run(waves)
    return {outcome.name: outcome for outcome in one.outcomes}, seen


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_the_check_continues_after_a_failure_and_reports_after_each_part(tmp_path: Path) -> None:
    found, seen = run(tmp_path, [[[script("first", FAIL), script("second", ROWS)]]])
    assert [found[name].status for name in ("first", "second")] == [Status.failed, Status.passed]
    assert found["first"].note == "what went wrong" and found["second"].rows == [{"a": 1, "b": "x|y"}]
    assert len(seen) == 2 and "0 of 1 parts passed" in seen[0] and "1 of 2 parts passed" in seen[1]
    assert "what went wrong" in seen[0] and r"| 1 | x\|y |" in seen[1] and "## What second finds" in seen[1]
    assert "before" in seen[1], "the end of a failed part's output"
    plain = json.loads((tmp_path / "report.json").read_text())
    assert [part["status"] for part in plain["parts"]] == ["failed", "passed"]
    assert "==== first" in (tmp_path / "log.txt").read_text()


def test_a_part_that_overruns_is_killed_with_its_children_and_keeps_its_rows(tmp_path: Path) -> None:
    began = time.monotonic()
    found, _ = run(tmp_path, [[[script("slow", CHILD, limit=3.0), script("next", ROWS)]]])
    assert time.monotonic() - began < 30
    assert found["slow"].status is Status.overran and found["slow"].note == "more than 3 s"
    assert not is_running(found["slow"].rows[0]["child"])
    assert found["next"].status is Status.passed


def test_parts_that_cannot_run_are_reported_and_not_started(tmp_path: Path) -> None:
    lane = [
        script("build", FAIL),
        script("needs", ROWS, after="build"),
        script("absent", ROWS, skip="no checkout given"),
        Part("nowhere", "No such program", ("/no/such/program",), 5),
    ]
    found, _ = run(tmp_path, [[lane]])
    assert {name: outcome.note for name, outcome in found.items() if outcome.status is Status.not_run} == {
        "needs": "build did not pass",
        "absent": "no checkout given",
    }
    assert found["nowhere"].status is Status.failed and "No such file" in found["nowhere"].note


def test_out_in_a_command_is_the_reports_folder(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'w').write('[]')"
    part = Part("image", "An image", (sys.executable, "-c", code, "{out}/avatar.png"), 60)
    found, _ = run(tmp_path, [[[part]]])
    assert found["image"].status is Status.passed and (tmp_path / "avatar.png").is_file()


def test_lanes_run_at_once_and_waves_one_after_another(tmp_path: Path) -> None:
    wait = "import time; time.sleep(1.5)"
    found, _ = run(tmp_path, [[[script("a", wait)], [script("b", wait)]], [[script("c", wait)]]])
    ends = {name: outcome.began + outcome.seconds for name, outcome in found.items()}
    assert found["b"].began < ends["a"] and found["a"].began < ends["b"]
    assert found["c"].began >= max(ends["a"], ends["b"])


def test_the_budget_ends_everything(tmp_path: Path) -> None:
    forever = "import time; time.sleep(60)"
    found, _ = run(tmp_path, [[[script("long", forever), script("late", ROWS)]]], budget=9.0)
    assert found["long"].status is Status.overran and found["long"].seconds < 15
    assert found["late"].status is Status.not_run and found["late"].note == "no time left"


def test_truncated_output_of_pytest_can_be_read() -> None:
    whole = """tests/a.py::test_one PASSED                [ 25%]
tests/a.py::test_two[x-y] FAILED           [ 50%]
tests/a.py::test_three SKIPPED (no GPU)    [ 75%]
tests/a.py::test_four ERROR                [100%]
FAILED tests/a.py::test_two[x-y] - AssertionError: not close
ERROR tests/a.py::test_four - RuntimeError: CUDA
"""
    counts, failures = read_tests(whole)
    assert counts == {"passed": 1, "failed": 2, "skipped": 1}
    assert failures == ["test_two[x-y]: AssertionError: not close", "test_four: RuntimeError: CUDA"]
    counts, failures = read_tests("\n".join(whole.splitlines()[:2]))
    assert counts == {"passed": 1, "failed": 1, "skipped": 0} and failures == ["test_two[x-y]"]


def test_an_incomplete_file_of_rows_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"a": 1')
    assert read_rows(tmp_path / "rows.json", {}) == read_rows(tmp_path / "none.json", {}) == []
    (tmp_path / "rows.json").write_text('[{"a": 1}]')
    assert read_rows(tmp_path / "rows.json", {"recipe": "mini"}) == [{"recipe": "mini", "a": 1}]


@pytest.mark.parametrize("trial", [False, True])
def test_the_plan_fits_the_budget_and_every_script_exists(trial: bool) -> None:
    options = plan.Options(trial, threestudio="/t", gaussianip="/g", sd21="/s")
    assert plan.longest(plan.certain(options)) <= plan.BUDGET
    parts = [part for wave in plan.plan(options) for lane in wave for part in lane]
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        files = [word for word in part.command if word.endswith(".py")]
        assert part.skip == "no such script" or (files and all((ROOT / file).is_file() for file in files)), part
    building = plan.certain(options)[0]
    assert building[0][0].name == "build" and not any(part.after for lane in building for part in lane)


def test_chosen_parts_include_the_build_that_they_need() -> None:
    waves = plan.only(plan.plan(plan.Options()), ["steps-sd21", "job"])
    names = [part.name for wave in waves for lane in wave for part in lane]
    assert names == ["build", "steps-sd21-eager", "job", "steps-sd21-graphs", "steps-sd21-compiled", "job-sd21"]
    assert [
        part.name for wave in plan.only(plan.plan(plan.Options()), ["machine"]) for lane in wave for part in lane
    ] == ["machine"]


def test_peers_without_a_checkout_are_not_run() -> None:
    notes = {part.name: part.skip for part in plan.peers(plan.Options(gaussianip="/g"))}
    assert notes == {"threestudio": "no checkout given: THREESTUDIO=<folder>", "gaussianip": ""}


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ({"machine": Status.passed, "tests": Status.passed, "peer": Status.not_run}, 0),
        ({"machine": Status.passed, "tests": Status.failed}, 1),
        ({"machine": Status.passed, "tests": Status.overran}, 1),
        ({"machine": Status.failed, "tests": Status.not_run}, 2),
    ],
)
def test_the_exit_code(ended: dict[str, Status], code: int) -> None:
    assert check.exit_code([Outcome(name, name, status) for name, status in ended.items()]) == code


def test_a_terminated_check_leaves_a_report_and_no_process(tmp_path: Path) -> None:
    """The whole program without installed packages, on the standard library alone until a part starts."""
    command = [sys.executable, "-S", str(ROOT / "tests" / "gpu_check"), "--trial", "--parts", "tests-training"]
    command += ["--out", str(tmp_path / "out")]
    variables = os.environ | {"TMPDIR": str(tmp_path)}  # so that every process that it starts names this folder
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=variables)
    assert process.stdout is not None
    assert "…" in process.stdout.readline()
    assert commands_that_name(tmp_path), "the check itself is running"
    process.terminate()
    assert process.wait(60) == 128 + 15
    assert "parts passed" in (tmp_path / "out" / "report.md").read_text()
    assert not commands_that_name(tmp_path), "what was running has been killed"


def commands_that_name(folder: Path) -> list[str]:
    """Command lines of running processes that contain a folder's path."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return [line for line in lines if str(folder) in line]


@pytest.mark.parametrize("trial", [False, True])
def test_the_settings_of_every_part_compose(trial: bool) -> None:
    """A part whose settings are refused costs a GPU's time to find out."""
    options = plan.Options(trial=trial, sd21="weights")
    parts = [part for wave in plan.plan(options) for lane in wave for part in lane]
    given = {part.name: [word for word in part.command if re.match(r"[a-z][\w.]*=", word)] for part in parts}
    for name, overrides in given.items():
        if name.startswith("steps-"):
            assert steps.composed(overrides).lab.benchmark.repeats in (1, 3)
        elif overrides:
            settings_of([*overrides, f"name={name}"])
    assert sum(bool(overrides) for overrides in given.values()) >= 8
