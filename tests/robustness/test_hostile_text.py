"""Prompts, titles and overrides of any text."""

import contextlib
import json
import math
import string
import unicodedata
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import CLIPTokenizer

from avatar_gs.cli.compose import flatten
from avatar_gs.cli.overrides import Names, as_overrides, rewrite, settings_of
from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.prior.prompt_encoder import placed_tokens, truncate
from avatar_gs.viewer.html import write_html
from tests.robustness.hostile import examples, splats, try_cases

pytestmark = pytest.mark.usefixtures("little_memory")


ANY = st.text(st.characters(exclude_categories=[]), max_size=60)
"""Also with halves of surrogate pairs, which are no text."""
TEXTS = ANY | st.text("\u202e\u200f\x00\n\r\t\\'\"${}[](),:=@#<>%~ אبשç😀👩‍👩‍👧", max_size=40)


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


@examples
def test_prompts_survive_the_command_line(examples):
    """Quoting, Hydra's grammar and OmegaConf's interpolations give the text back."""
    parser = OverridesParser.create()

    def read(text):
        (override,) = parser.parse_overrides(rewrite(as_overrides({"prompt": text})))
        assert OmegaConf.create({"prompt": override.value()}).prompt == text

    try_cases(examples, TEXTS, read)


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(MINI_PRIOR / "tokenizer")


@examples
def test_prompts_are_cut_between_tokens(tokenizer, examples):
    def read(text):
        if any(unicodedata.category(character) == "Cs" for character in text):
            return  # refused before
        kept, cut = truncate(tokenizer, 16, text, "front view", 2)
        assert kept + cut == text
        ids, places = placed_tokens(tokenizer, 16, text, 2)
        assert len(ids) == len(places) == 16

    try_cases(examples, TEXTS | TEXTS.map(lambda text: f"{text}<id>{text}"), read)


ALSO = ["a man ", "x", "<id>", "ש", "😀", "\u202e", "\x00", "'", "\\", "["]


@pytest.mark.parametrize("piece", ["👩‍👧${", *(pytest.param(piece, marks=pytest.mark.slow) for piece in ALSO)])
def test_prompts_of_a_hundred_thousand_characters(piece, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = piece * (100_000 // len(piece))
    try:
        found = settings_of([*as_overrides({"prompt": text}), "identity=anna.safetensors"])
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    assert found.prompt == text and len(found.folder.name) < 80
    kept, cut = truncate(tokenizer, 77, text)
    assert kept + cut == text and len(kept) < 1000


@examples
def test_titles_of_pages(tmp_path, examples):
    def read(title):
        write_html(tmp_path / "a.html", splats(), title)
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert page.count("<script") == plain.count("<script") and page.count("<title>") == 1

    write_html(tmp_path / "a.html", splats(), "Anna")
    plain = (tmp_path / "a.html").read_text(encoding="utf-8")
    hostile = st.sampled_from(["</title><script>alert(1)</script>", "{{script}}", "<!--", "\ud800", "'\"&"])
    try_cases(examples, TEXTS | hostile, read)


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

    def resolve(overrides):
        found = settings_of(["prompt=a man", *overrides])
        values = flatten(found.plain())
        assert all(math.isfinite(value) for value in values.values() if isinstance(value, float)), values
        json.dumps(values, allow_nan=False)
        assert not any(Path().iterdir()), "nothing is written"

    def parse(overrides):
        parser.parse_overrides(rewrite(overrides, multirun=True))

    parser = OverridesParser.create()
    few = st.lists(override, min_size=1, max_size=2)
    try_cases(examples // 4, few, resolve)
    try_cases(examples, few, lambda overrides: no_hydra_error(parse, overrides))


def no_hydra_error(parse, overrides):
    """Hydra's own errors are one line for the command, as the first test of ``resolve`` shows."""
    with contextlib.suppress(HydraException):
        parse(overrides)
