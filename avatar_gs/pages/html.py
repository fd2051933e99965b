"""Safe HTML: escaped text, links to files, templates with a policy that allows nothing but what they hold."""

import html
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from avatar_gs.core.io import write_text

GENERATOR = '<meta name="generator" content="avatar_gs">'
"""Marks the pages of this program: others of the same name are the user's, and are left alone."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def text(value: object) -> str:
    """Any text as HTML. Control characters, and surrogates of bytes that are no UTF-8, become replacement marks."""
    readable = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value))
    return html.escape(re.sub(r"[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", readable))


def isolated(value: object) -> str:
    """Any text, in any direction, such that it does not turn what stands around it."""
    return f'<bdi dir="auto">{text(value)}</bdi>'


def link(path: Path, start: Path) -> str:
    """The address of a file from a page in the folder ``start``, which must hold the file."""
    return quote(path.relative_to(start).as_posix().encode("utf-8", "surrogateescape"))


def page(template: str, style: str, script: str, values: Mapping[str, str]) -> str:
    """Fill a template of ``web/``.

    Args:
        template, style, script: names of files there. Style and script become part of the page.
        values: HTML by placeholder; text in it that looks like a placeholder stays.
    """
    # From the viewer, so that both pages are alike in what they allow.
    from avatar_gs.viewer.html import csp_hash

    sources = {name: source(name) for name in (template, style, script)}
    filled = dict(values) | {
        "generator": GENERATOR,
        "style": sources[style],
        "script": sources[script],
        "style_hash": csp_hash(sources[style]),
        "script_hash": csp_hash(sources[script]),
    }
    return _PLACE.sub(lambda place: filled[place[1]], sources[template])


def source(name: str) -> str:
    """A file of ``web/``."""
    return (files("avatar_gs.pages") / "web" / name).read_text(encoding="utf-8")


def is_ours(path: Path) -> bool:
    """Whether a page may be written to ``path``: nothing is there, or a page of this program."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(4096)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def write_page(path: Path, content: str) -> bool:
    """Write a page atomically, unless a file that is not this program's stands there; returns whether it was written.

    Raises:
        OSError: if the file cannot be written.
    """
    if not is_ours(path):
        return False
    write_text(path, content)
    return True
