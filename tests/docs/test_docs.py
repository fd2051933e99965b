"""README and documentation: links, images, commands and code blocks hold, and generated pages are fresh."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from avatar_gs import cli
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.distill import Guidance
from avatar_gs.guidance.methods.base import Setup
from tests.guidance.analytic import AnalyticPrior, conditions, full, make, step

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md"))
DOCUMENTS = [
    ROOT / "README.md",
    *PAGES,
    *sorted((ROOT / "avatar_gs").rglob("README.md")),
    ROOT / "body_models/README.md",
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|((?:^(?: {4}|\t)\S.*\n)+)", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:avatar-gs|make|python|torchrun) [^`]+)`")
PROGRAM = re.compile(r"(?:\S*/)?(?:avatar-gs|make|python|torchrun) ")
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def code_blocks(path: Path, languages: set[str]) -> list[str]:
    """The code blocks in some languages; an indented block counts as ``sh``."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [body or indented for language, body, indented in found if (language if body else "sh") in languages]


def command_lines(path: Path) -> list[list[str]]:
    """All commands of a document that start one of our programs, split into words, without comments."""
    lines = [line.strip() for block in code_blocks(path, {"sh"}) for line in block.splitlines()]
    inline = INLINE.findall(path.read_text(encoding="utf-8"))
    return [shlex.split(line, comments=True) for line in [*lines, *inline] if PROGRAM.match(line)]


def commands_of(program: str) -> list[tuple[str, list[str]]]:
    found = [(path, words) for path in DOCUMENTS for words in command_lines(path) if Path(words[0]).name == program]
    return [(str(path.relative_to(ROOT)), words[1:]) for path, words in found]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_and_images_exist(path):
    targets = [a or b for a, b in LINK.findall(path.read_text(encoding="utf-8"))]
    for target in targets:
        if not re.match(r"https?:|#|mailto:", target):
            assert (path.parent / target.split("#")[0]).exists(), target


def test_commands_are_found():
    assert all(commands_of(program) for program in ("avatar-gs", "make", "python", "torchrun"))


TORCHRUN = [(path, words[words.index("avatar_gs") + 1 :]) for path, words in commands_of("torchrun")]


@pytest.mark.parametrize(("path", "words"), [*commands_of("avatar-gs"), *TORCHRUN])
def test_every_command_composes(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if any(word.startswith("-") and word != "-m" for word in words):
        assert words[0] in ("--help", "--version", "--cfg", "-sc")
        return
    words = [word for word in words if not word.startswith("cluster=")]  # its launcher is an optional package
    if "-m" in words:  # one job of the sweep
        words = [first_value(word) for word in words if word != "-m" and not word.startswith("prompt=@")]
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = cli.main(["--cfg", "job", *words])
    assert code == 0, errors.getvalue()


def first_value(word: str) -> str:
    """The override of a sweep's first job; text and lists stay as they are."""
    key, _, value = word.partition("=")
    return word if key == "prompt" or "[" in value else f"{key}={value.split(',')[0]}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for _, words in commands_of("make") for word in words[:1] if "=" not in word}
    assert asked and asked <= targets


def test_python_scripts_exist():
    for path, words in commands_of("python"):
        if words[0] == "-m":
            importlib.import_module(words[1])
        elif words[0] != "-c":
            assert (ROOT / words[0]).is_file(), (path, words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_python_blocks_parse_and_their_imports_exist(path):
    for block in code_blocks(path, {"python", "py"}):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "avatar_gs":
                assert hasattr(importlib.import_module("avatar_gs"), node.attr), node.attr


def test_settings_page_is_fresh():
    command = [sys.executable, "docs/generate_settings.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    for page in PAGES:
        relative = page.relative_to(ROOT / "docs" / "pages").with_suffix(".html")
        assert (tmp_path / relative).is_file(), relative
    assert not re.search(r"<script[^>]+src=\"https?:", (tmp_path / "index.html").read_text())


def test_the_documented_method_is_a_method(monkeypatch):
    """The file of how-to/add-a-guidance-method.md scales CSD's residual by its factor."""
    page = ROOT / "docs" / "pages" / "how-to" / "add-a-guidance-method.md"
    module: Any = ModuleType("avatar_gs.guidance.methods.my_csd")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code_blocks(page, {"python"})[0], str(page), "exec"), vars(module))
    prior, conds = AnalyticPrior(), conditions(text=0.5, null=0.1)
    csd = make(prior, conds, "csd", 400, cfg_scale=2.0)
    method = module.MyCsdConfig(factor=3.0).build(Setup(prior, conds, Cfg(2.0), {}))
    latents = full(0.9, 4)
    mine, reference = step(Guidance(csd.config, prior, method), conds, latents), step(csd, conds, latents)
    assert torch.allclose(mine.grad, 3 * reference.grad) and reference.grad.abs().min() > 0
    with pytest.raises(UserError, match=r"guidance\.my_csd\.factor=-1"):
        module.MyCsdConfig(factor=-1)
