"""Sweeps on other engines: the presets compose, a job's folder is its own, and what is wrong is said in one line."""

import importlib.util
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from avatar_gs import cli
from avatar_gs.cli import clusters, overrides, sweep
from avatar_gs.core.errors import UserError
from avatar_gs.core.presets import preset_names

PROMPT = "prompt=a man in red"
ENGINES = ["local", "slurm", "ray"]


def plan(*given_overrides):
    return sweep.plan(OverridesParser.create().parse_overrides(list(given_overrides)))


def test_every_preset_has_an_engine():
    assert sorted(clusters.LAUNCHERS) == preset_names("cluster") == sorted(ENGINES)


@pytest.mark.parametrize("cluster", ENGINES)
def test_a_preset_composes_with_its_launcher(cluster, capsys):
    assert cli.main(["--cfg", "hydra", "-p", "hydra.launcher", f"cluster={cluster}", PROMPT]) == 0
    assert f"hydra_{clusters.LAUNCHERS[cluster]}_launcher" in capsys.readouterr().out


@pytest.mark.parametrize("cluster", ENGINES)
def test_without_the_extra_one_line_says_what_to_install(cluster, capsys, monkeypatch):
    def nothing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    assert cli.main(["-m", f"cluster={cluster}", PROMPT]) == 1
    said = capsys.readouterr().err
    assert f"hydra-{clusters.LAUNCHERS[cluster]}-launcher: pip install 'avatar-gs[cluster]'" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cluster=local", PROMPT], "add -m"),
        (["-m", "cluster=local,ray", PROMPT], "one place"),
        (["-m", "cluster=slurm", PROMPT], "no sbatch here"),
        (["-m", "cluster=cloud", PROMPT], "none of local, ray, slurm"),
        (["-m", "seed=0,1,0", PROMPT], "0 is given twice"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_a_file_repeats_is_made_once(tmp_path):
    (tmp_path / "prompts.txt").write_text("a man\na woman\n# more\na man\n")
    assert overrides.rewrite([f"prompt=@{tmp_path / 'prompts.txt'}"], multirun=True) == ["prompt='a man','a woman'"]


def test_where_a_sweep_runs_does_not_change_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, settings = plan("prompt='a man','a woman'", "seed=0,1")
    there, _ = plan("prompt='a man','a woman'", "seed=0,1", "cluster=ray", "hydra.launcher.ray.remote.num_cpus=2")
    assert here == there and here.parent == tmp_path / "outputs"
    assert f"hydra.sweep.dir='{here}'" in settings
    name = sweep.job_name(str(here), "outputs", ["prompt='a man'", "seed=1"], [])
    assert name.startswith(f"{here.name}/prompt=a-man-") and name.endswith(",seed=1")


@given(st.lists(st.text("ab-_ é0.", max_size=4).map(lambda end: "x" * 58 + end), min_size=2, max_size=4, unique=True))
def test_different_values_have_different_folders(values):
    names = {sweep.job_name("/a/s", "/a", [f"prompt={overrides.quote(value)}"], []) for value in values}
    assert len(names) == len(values)
    assert all(len(name) < 200 and name.isascii() for name in names)


def test_relative_paths_mean_the_same_in_every_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start").mkdir()
    clusters.enter(str(tmp_path / "start"))
    assert Path.cwd() == tmp_path / "start"
    with pytest.raises(UserError, match="all machines of the cluster share"):
        clusters.enter(str(tmp_path / "elsewhere"))


def test_an_engine_that_fails_is_no_fault_of_the_program():
    lost = type("WorkerCrashedError", (Exception,), {"__module__": "ray.exceptions"})("the worker died\nlong ago")
    assert "WorkerCrashedError: the worker died); the same command goes on" in str(clusters.lost_job(lost))
    assert "ray start" in str(clusters.lost_job(ConnectionError("nobody at 127.0.0.1:6379")))
    assert clusters.lost_job(ValueError("a fault of ours")) is None
