"""Prompts, titles and overrides of any text."""

import json
import math
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from avatar_gs.cli.compose import flatten
from avatar_gs.cli.overrides import Names, as_overrides, settings_of
from avatar_gs.viewer.html import write_html
from tests.robustness.hostile import examples, splats, try_cases

pytestmark = pytest.mark.usefixtures("little_memory")


TEXTS = st.text(max_size=60) | st.text("\u202e\u200f\x00\n\r\t\\'\"${}[](),:=@#<>%~ אبשç😀👩‍👩‍👧", max_size=40)


@examples
def test_prompts_in_any_script(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)

    def read(text):
        (given,) = as_overrides({"prompt": text})
        found = settings_of([given, "name=a"])
        assert found.prompt == text
        assert yaml.safe_load(yaml.safe_dump(found.plain(), allow_unicode=True))["prompt"] == text
        assert found.folder == Path("outputs/a")

    try_cases(examples // 4, TEXTS, read)


def test_a_prompt_of_a_hundred_thousand_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(settings_of([f"prompt={'a man ' * 16_667}"]).folder.name) < 60


@examples
def test_titles_of_pages(tmp_path, examples):
    def read(title):
        write_html(tmp_path / "a.html", splats(), title)
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert page.count("<script") == plain.count("<script") and page.count("<title>") == 1

    write_html(tmp_path / "a.html", splats(), "Anna")
    plain = (tmp_path / "a.html").read_text(encoding="utf-8")
    hostile = st.sampled_from(["</title><script>alert(1)</script>", "{{script}}", "<!--", "\ud800", "'\"&"])
    try_cases(examples // 4, TEXTS | hostile, read)


VALUES = st.sampled_from(
    [
        *("", "a b", "null", "-1", "0", "1e400", "nan", "inf", "-inf", "99999999999999999999", "true", "[]", "[1"),
        *("{a:1}", "???", "${oc.env:HOME}", "${a}", "../..", "a,b", "/etc/passwd", "range(3)", "choice(1,2)", "'"),
        *('"', "\\", "@x", "~x", "[nan]", "[1e9]", "0x10", "1_0", "é", "(", "=", "/dev/null", "[a,[b]]", "glob(*)"),
    ]
)


@examples
def test_overrides(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)
    names = Names.known()
    odd = ("hydra.run.dir", "+new", "~seed", "++seed", "x.y", "prompt@a", "-m")
    keys = [*sorted(names.keys | set(names.presets)), *odd]
    words = VALUES | st.text(string.printable, max_size=8)
    override = st.builds("{}={}".format, st.sampled_from(keys), words) | st.text(max_size=12)

    def read(overrides):
        found = settings_of(["prompt=a man", *overrides])
        values = flatten(found.plain())
        assert all(math.isfinite(value) for value in values.values() if isinstance(value, float)), values
        json.dumps(values, allow_nan=False)
        assert not any(Path().iterdir()), "nothing is written"

    try_cases(examples // 4, st.lists(override, min_size=1, max_size=2), read)
