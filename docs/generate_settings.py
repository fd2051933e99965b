"""Write ``docs/pages/settings.md`` from the settings' dataclasses.

python docs/generate_settings.py            # write the page
python docs/generate_settings.py --check    # exit with 1 where it is stale
"""

import argparse
import ast
import importlib
import inspect
import sys
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from avatar_gs.core.paths import CONF
from avatar_gs.settings import Settings

PAGE = Path(__file__).parent / "pages" / "settings.md"
HEAD = """\
# Settings

Every setting, given as `setting=value`. `avatar-gs --cfg job` prints the values that a command runs with.
This page is generated from the dataclasses (`make docs`); a default stands next to the code that it configures.

Presets set several at once: {presets}.
"""


def page() -> str:
    """The whole page as Markdown."""
    groups = {folder.name: sorted(file.stem for file in folder.glob("[!_]*.yaml")) for folder in sorted(CONF.iterdir())}
    presets = ", ".join(f"`{name}=`{'|'.join(found)}" for name, found in groups.items() if found)
    parts = [HEAD.format(presets=presets), section("", Settings, "General")]
    for entry in fields(Settings):
        annotation = field_type(Settings, entry)
        if is_dataclass(annotation):
            parts.append(section(entry.name, annotation, f"`{entry.name}`"))
    laboratory = laboratory_config()
    if laboratory is not None:
        parts.append("## Laboratory\n\nSettings of [the laboratory](how-to/laboratory.md).\n")
        own = [entry for entry in fields(laboratory) if not is_dataclass(field_type(laboratory, entry))]
        if own:
            parts.append(table("lab", laboratory, own))
        for entry in fields(laboratory):
            annotation = field_type(laboratory, entry)
            if is_dataclass(annotation):
                parts.append(section(f"lab.{entry.name}", annotation, f"`lab.{entry.name}`", level=3))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def laboratory_config() -> type | None:
    """The laboratory's settings; None where it is not installed."""
    try:
        return importlib.import_module("avatar_gs.lab.settings").LabConfig
    except ModuleNotFoundError:
        return None


def section(prefix: str, config: Any, title: str, level: int = 2) -> str:
    """A dataclass as a heading, its docstring and a table of its fields, those of nested dataclasses included."""
    about = "" if config is Settings else f"{first_paragraph(config)}\n\n"
    return f"{'#' * level} {title}\n\n{about}{table(prefix, config, list(fields(config)))}"


def table(prefix: str, config: Any, entries: list[Field[Any]]) -> str:
    """The rows of some fields of a dataclass."""
    lines = rows(prefix, config, entries, nested=bool(prefix))
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *lines]) + "\n"


def rows(prefix: str, config: Any, entries: list[Field[Any]], nested: bool) -> list[str]:
    """One row a setting; nested dataclasses are flattened where ``nested``."""
    texts, found = attribute_docstrings(config), []
    for entry in entries:
        annotation, name = field_type(config, entry), f"{prefix}.{entry.name}" if prefix else entry.name
        if is_dataclass(annotation):
            if nested:
                found += rows(name, annotation, list(fields(annotation)), nested)
            continue
        allowed = entry.metadata.get("range")
        words = [texts.get(entry.name, "")]
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            words.append("One of " + ", ".join(f"`{member.name}`" for member in annotation) + ".")
        if allowed is not None:
            words.append(f"Range: {allowed}.")
        text = " ".join(filter(None, words)).replace("|", "\\|").replace("<", "&lt;")
        found.append(f"| `{name}` | `{default(entry)}` | {text} |")
    return found


def field_type(config: Any, entry: Field[Any]) -> Any:
    """The type of a field, without ``Optional``."""
    hint = get_type_hints(config)[entry.name]
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if type(None) in get_args(hint) and len(options) == 1 else hint


def default(entry: Field[Any]) -> str:
    """A default as it is written on the command line."""
    value = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f'"{value}"' if isinstance(value, str) and not value else str(value)


def first_paragraph(config: Any) -> str:
    """The first paragraph of a class's docstring on one line."""
    return one_line(inspect.getdoc(config) or "").split("\n\n")[0]


def one_line(text: str) -> str:
    """A docstring with its paragraphs on one line each, double backticks made single."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("``", "`")


def attribute_docstrings(config: Any) -> dict[str, str]:
    """The string literals below the fields of a dataclass and of those that it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not is_dataclass(base):
            continue
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cast(type, base)))).body[0]
        assert isinstance(body, ast.ClassDef)
        names: list[str] = []
        for node in body.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and names:
                texts[names[0]] = one_line(str(node.value.value)).replace("\n\n", " ")
                names = []
            else:
                names = []
    return texts


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = page()
    if parser.parse_args().check:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        print(f"{PAGE} is {'stale: run make docs' if stale else 'fresh'}")
        return int(stale)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
