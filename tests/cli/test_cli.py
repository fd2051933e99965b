"""The command: help, usage errors, exit codes, sweeps, completion. Stages only record their settings."""

import errno
import importlib.util
import os
import subprocess
import sys

import pytest

from avatar_gs.cli import command as cli
from avatar_gs.cli.schema import STAGES
from avatar_gs.core.errors import UserError

PROMPT = "prompt=a man in a red shirt"


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """The settings of every job that the command started; ``outcome`` (if set) is called for each."""
    monkeypatch.chdir(tmp_path)
    seen = Jobs()
    monkeypatch.setattr(cli, "_dispatch", seen.dispatch)
    return seen


class Jobs(list):
    outcome = staticmethod(lambda settings: None)

    def dispatch(self, settings):
        self.append(settings)
        self.outcome(settings)


def raises(error):
    def outcome(settings):
        raise error

    return outcome


def run_in_subprocess(*arguments, **environment):
    """Runs the command in its own process and says which heavy modules it loaded, after its output."""
    code = (
        "import sys; from avatar_gs.cli import main; code = main(sys.argv[1:]);"
        "print('HEAVY', [m for m in ('torch', 'numpy', 'numba', 'diffusers', 'scipy') if m in sys.modules]);"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--cfg", "job"], 0), (["stage=nonsense"], 1), (["-m", "seed=0,1", "nonsense=1"], 1)],
)
def test_help_config_and_usage_errors_load_nothing_heavy(arguments, code, tmp_path):
    result = run_in_subprocess(*arguments)
    assert result.returncode == code
    assert "HEAVY []" in result.stdout


def test_completion_loads_nothing_heavy():
    result = run_in_subprocess("-sc", "query=bash", COMP_LINE='avatar-gs prompt="a man, (tall)" gui')
    assert result.returncode == 0
    assert result.stdout.split()[:2] == ["guidance.", "guidance="]
    assert "HEAVY []" in result.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("avatar-gs stage=e", {"stage=embed", "stage=export", "stage=evaluate"}),
        ("avatar-gs -m prior=sd", {"prior=sd15", "prior=sd21", "prior=sdxl"}),
        ("avatar-gs export.frame=", {"export.frame=supersplat", "export.frame=rdf", "export.frame=yup"}),
        ("avatar-gs splats.cou", {"splats.count="}),
        ("avatar-gs suite=l", {"suite=likeness"}),
        ("avatar-gs playground.fie", {"playground.field="}),
        ("avatar-gs prompt='it", set()),
    ],
)
def test_completion(line, expected, capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    assert cli.main(["-sc", "query=bash"]) == 0
    assert set(capsys.readouterr().out.split()) == expected


def test_bash_completes_after_a_quoted_prompt(tmp_path):
    (tmp_path / "avatar-gs").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m avatar_gs "$@"\n')
    (tmp_path / "avatar-gs").chmod(0o755)
    script = """
    eval "$(avatar-gs -sc install=bash | sed 's/ __main__.py$/ avatar-gs/')"
    COMP_LINE='avatar-gs prompt="a man" gui' COMP_WORDS=(avatar-gs 'prompt="a man"' gui) COMP_CWORD=2
    hydra_bash_completion; echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert result.stdout.split() == ["guidance.", "guidance="], result.stderr


def test_help_names_the_stages_and_presets(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in [*STAGES, "optimize.steps", "sd21", "de_sds", "experiment", "-m"]:
        assert word in text
    assert text.index("  export  ") < text.index("Laboratory") < text.index("  evaluate  ")


def test_every_stage_of_the_help_is_there():
    for name, stage in STAGES.items():
        assert stage.module.endswith(f".{name}") and importlib.util.find_spec(stage.module)


def test_config_is_printed(capsys):
    assert cli.main(["--cfg", "job", "seed=3", "prompt=a, (b)"]) == 0
    text = capsys.readouterr().out
    assert "seed: 3\n" in text
    assert "prompt: a, (b)\n" in text
    assert [line for line in text.splitlines() if not line.startswith(" ")][-1] == "lab:"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--cfg", "everything"], "everything"),
        (["seed=0,1", PROMPT], "-m"),
        (["seed=abc", PROMPT], "seed=abc"),
        (["seed={a", PROMPT], "seed={a"),
        (["seed=-2", PROMPT], "seed=-2"),
        (["device=gpu", PROMPT], "device=gpu"),
        (["device=cuda:x", PROMPT], "device=cuda:x"),
        (["outputs=", PROMPT], "outputs=''"),
        (["threads=-1", PROMPT], "threads=-1"),
        (["splats.count=0", PROMPT], "splats.count=0"),
        (["splats.count=100000000000", PROMPT], "splats.count"),
        (["optimize.steps=0", PROMPT], "optimize.steps=0"),
        (["optimize.batch=0", PROMPT], "optimize.batch=0"),
        (["optimize.batch=1000000", PROMPT], "optimize.batch=1000000"),
        (["cameras.fov_max=1000", PROMPT], "cameras.fov"),
        (["prompt="], "prompt is empty"),
        (["prompt=   "], "prompt is empty"),
        ([], "prompt is empty"),
        (["name=../x", PROMPT], "name='../x'"),
        (["name=/etc/x", PROMPT], "name='/etc/x'"),
        (["name=a/../../x", PROMPT], "name="),
        ([f"name={'x' * 300}", PROMPT], "at most 200"),
        (["photos=./anna", "identity=anna.safetensors", PROMPT], "not both"),
        (["prompt=<id> in red"], "give photos=<folder"),
        (["stage=embed", PROMPT], "whose identity? give photos=<folder"),
        (["embed.lr=-1", "photos=./anna"], "embed.lr=-1"),
        (["embed.steps=1000000000", "photos=./anna"], "embed.steps=1000000000"),
        (["cameras.head_share_with_identity=1", PROMPT], "cameras.head_share_with_identity"),
        (["prior.prompts.identity_views=[behind]", PROMPT], "behind is none of front, side, back, overhead"),
        (["stage=export", "name=nobody"], "is no run"),
        (["body.path=body.pkl", PROMPT], ".npz"),
        (["-sc", "install=tcsh"], "bash"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(jobs, capsys, arguments, words):
    assert cli.main(arguments) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert words in text
    assert not jobs


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("the file is missing"), "the file is missing"),
        (OSError(errno.ENOSPC, "No space left on device", "avatar.ply"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "outputs"), "outputs"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_is_no_fault_of_the_program_is_one_line(jobs, capsys, error, words):
    jobs.outcome = raises(error)
    assert cli.main([PROMPT]) == 1
    text = capsys.readouterr().err
    assert words in text
    assert text.count("\n") == 1


def test_a_fault_of_the_program_shows_where(jobs, capsys):
    jobs.outcome = raises(RuntimeError("oh"))
    assert cli.main([PROMPT]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_where_a_users_mistake_was_found(jobs, capsys):
    jobs.outcome = raises(UserError("oh"))
    assert cli.main([PROMPT, "debug=true"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert cli.main(["nonsense=1", "debug=true"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130_alone_and_in_a_sweep(jobs, capsys):
    jobs.outcome = raises(KeyboardInterrupt())
    assert cli.main([PROMPT]) == 130
    assert cli.main([PROMPT, "-m", "seed=0,1"]) == 130
    assert len(jobs) == 2
    assert "the same command resumes the run" in capsys.readouterr().err
    jobs.outcome = raises(KeyboardInterrupt("start again"))
    assert cli.main([PROMPT]) == 130
    assert capsys.readouterr().err.strip().endswith("interrupted; start again")


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_multirun_works_anywhere_on_the_line(jobs, position):
    arguments = [PROMPT, "name=sweep", "seed=0,1"]
    arguments.insert(position, "-m")
    assert cli.main(arguments) == 0
    assert [job.folder.as_posix() for job in jobs] == ["outputs/sweep/seed=0", "outputs/sweep/seed=1"]
    assert {job.prompt for job in jobs} == {"a man in a red shirt"}


def test_sweeps_over_several_keys(jobs):
    assert cli.main(["-m", PROMPT, "guidance=sds,de_sds", "seed=range(2)", "optimize.steps=10"]) == 0
    names = [job.name.split("/") for job in jobs]
    assert len({sweep for sweep, _ in names}) == 1
    assert [changed for _, changed in names] == [f"guidance={g},seed={s}" for g in ("sds", "de_sds") for s in (0, 1)]
    assert [job.guidance.method for job in jobs] == ["sds", "sds", "de_sds", "de_sds"]


def test_a_failing_job_does_not_lose_the_others(jobs, capsys):
    def fail_for_seed_1(settings):
        if settings.seed == 1:
            raise UserError("seed 1 is unlucky")

    jobs.outcome = fail_for_seed_1
    assert cli.main(["-m", PROMPT, "seed=0,1,2"]) == 1
    assert [job.seed for job in jobs] == [0, 1, 2]
    assert "1 of 3 jobs failed" in capsys.readouterr().err


def test_an_invalid_job_does_not_lose_the_others(jobs):
    assert cli.main(["-m", PROMPT, "optimize.steps=0,10"]) == 1
    assert [job.optimize.steps for job in jobs] == [10]


def test_a_sweep_stays_below_outputs(jobs, capsys, tmp_path):
    assert cli.main(["-m", PROMPT, "name=../../elsewhere", "seed=0,1"]) == 1
    assert "elsewhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_text_that_the_terminal_cannot_show_is_escaped():
    result = run_in_subprocess("--cfg", "job", "-p", "prompt", "prompt=红 shirt", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert r"\u7ea2 shirt" in result.stdout


def test_runs_lie_in_the_folder_of_the_users_choice(jobs, tmp_path):
    assert cli.main([PROMPT, "name=a", f"outputs={tmp_path / 'el se'}"]) == 0
    assert cli.main([PROMPT, "-m", "name=b", "seed=0,1", "outputs=runs"]) == 0
    folders = [job.folder.as_posix() for job in jobs]
    assert folders == [f"{tmp_path}/el se/a", "runs/b/seed=0", "runs/b/seed=1"]
    assert cli.main([PROMPT, "name=../a", f"outputs={tmp_path}"]) == 1


def test_random_seeds_are_drawn_for_every_run(jobs):
    for seed in ("seed=random", "seed=-1"):
        assert cli.main([PROMPT, seed]) == 0
    assert cli.main([PROMPT, "-m", "name=s", "seed=random,random,5"]) == 0
    seeds = [job.seed for job in jobs]
    assert len(set(seeds)) == 5 and seeds[-1] == 5 and all(0 <= seed < 2**31 for seed in seeds)
    assert len({job.folder for job in jobs}) == 5
    assert [job.folder.name for job in jobs[2:]] == [f"seed={seed}" for seed in seeds[2:]]


def test_devices_are_taken_as_given(jobs):
    for name in ("cpu", "cuda:1", "mps", "auto"):
        assert cli.main([PROMPT, f"device={name}"]) == 0
    assert [job.device for job in jobs] == ["cpu", "cuda:1", "mps", "auto"]


def test_hydra_writes_nothing_for_a_single_run(jobs, tmp_path):
    assert cli.main([PROMPT]) == 0
    assert list(tmp_path.iterdir()) == []
