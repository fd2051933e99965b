"""The command that makes a run again: read back by the program, it gives the settings that it was made from."""

import shlex
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gs.cli.overrides import settings_of
from avatar_gs.pages.command import PROGRAM, command_line, differing, overrides

COMMANDS = {
    "quotes": ["""prompt=a "man" in 'red' & $HOME `x` \\ ${seed} رجل \u202e 🧍"""],
    "outer quotes": ["""prompt='"red"'""", "embeddings=[x/ink.pt,'y, z.pt']"],
    "numbers": ["prompt=a man", "seed=7", "optimize.steps=12", "splats.lr.means=1e-5", "threads=2"],
    "experiment": ["prompt=a man", "experiment=quick", "name=people/tom"],
    "experiment with a prior": ["prompt=a man", "experiment=sd_8gb", "guidance=sds", "optimize.steps=5"],
    "presets": ["prompt=a man", "prior=people", "guidance=vsd", "guidance.cfg_scale=9", "export.formats=[ply,glb]"],
    "a prior's folder": ["prompt=a man", "prior=/some where/a,b", "prior.lora=[a.safetensors,b c.safetensors]"],
    "photos": ["prompt=<id> in red", "photos=./my photos/*.jpg", "outputs=/tmp/else where"],
    "enums": ["prompt=a man", "optimize.poses=random", "pose=wave@30", "body.path=null"],
}


@pytest.mark.parametrize("given_words", COMMANDS.values(), ids=COMMANDS)
def test_the_command_gives_the_settings_it_was_made_from(given_words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_from = settings_of(given_words)
    program, *words = shlex.split(command_line(made_from.plain()))
    assert program == PROGRAM
    assert settings_of(words) == made_from


@pytest.mark.parametrize(
    ("given_words", "expected"),
    [
        (["prompt=a man", "threads=2"], ["prompt=a man", "seed=0", "threads=2"]),
        (["prompt=a", "experiment=quick", "threads=2"], ["experiment=quick", "prompt=a", "seed=0", "threads=2"]),
        (["prompt=a", "experiment=sd15", "threads=2"], ["experiment=sd15", "prompt=a", "seed=0", "threads=2"]),
        (["prompt=a", "guidance=csd", "seed=3", "threads=2"], ["guidance=csd", "prompt=a", "seed=3", "threads=2"]),
    ],
)
def test_it_names_presets_and_nothing_that_they_set(given_words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert overrides(settings_of(given_words).plain()) == expected


@hypothesis.settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_prompt_survives_the_shell_and_the_program(prompt):
    (word,) = (word for word in overrides({"prompt": prompt}) if word.startswith("prompt="))
    line = command_line({"prompt": prompt})
    assert shlex.split(line) == [PROGRAM, word]
    taken = word.removeprefix("prompt=")
    outer = len(taken) > 1 and taken[0] == taken[-1] and taken[0] in "\"'"
    assert (taken[1:-1] if outer else taken) == prompt


@pytest.mark.parametrize(
    "config", [{}, {"prompt": None}, {"optimize": [1, 2], "prompt": "a"}, {"seed": {"a": 1}}, {"prior": "mini"}]
)
def test_damaged_settings_give_some_command(config):
    assert command_line(config).startswith(PROGRAM)


def test_settings_in_which_runs_differ():
    one = {"prompt": "a", "seed": 1, "name": "x", "optimize": {"steps": 5}}
    two = {"prompt": "a", "seed": 2, "name": "y", "optimize": {"steps": 7}}
    assert differing([one, two]) == ["seed", "optimize.steps"]
    assert Path(command_line(one).split()[0]).name == PROGRAM
