"""Overrides as the user typed them, checked and rewritten for Hydra's grammar.

Hydra's grammar refuses ordinary sentences and expands ``${…}`` in them, so free text is quoted and escaped here. One
matching pair of outer quotes is stripped; the rest is the text.
"""

import difflib
import logging
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import MISSING
from omegaconf.errors import OmegaConfBaseException

from avatar_gs.cli.clusters import LAUNCHERS, require_launcher
from avatar_gs.cli.compose import (
    chooses_prior,
    composed,
    enum_choices,
    escape_interpolation,
    flatten,
    in_one_line,
    resolve,
    text_keys,
)
from avatar_gs.cli.schema import HAS_LAB, SCHEMA, STAGES, full_key
from avatar_gs.core.errors import UserError
from avatar_gs.core.presets import preset_groups
from avatar_gs.settings import MAX_SEED, RANDOM_SEED, Settings

LOGGER = logging.getLogger(__name__)
LISTS_OF_FILES = ("prior.lora", "embeddings")
"""Settings that hold several paths: ``[a,b]``, or one path as it is."""
_FORM = re.compile(r"(?P<sign>\+{0,2})(?P<key>[A-Za-z_][\w./@-]*)=(?P<value>.*)", re.DOTALL)
_ITEM = re.compile(r"""\s*(?P<item>'[^']*'|"[^"]*"|[^,\]]*?)\s*(?P<end>[,\]])""")
_WORDS = re.compile(r"[\w.-]+(,[\w.-]+)*")


@dataclass(frozen=True)
class Names:
    """The names that overrides may use."""

    presets: dict[str, list[str]]
    enums: dict[str, list[str]]
    texts: set[str]
    keys: set[str]
    """Every setting, and every group of settings."""

    @classmethod
    def known(cls) -> "Names":
        leaves = flatten(SCHEMA().plain())
        parents = {key.rsplit(".", depth)[0] for key in leaves for depth in range(1, key.count(".") + 1)}
        return cls(preset_groups(), enum_choices(), text_keys(), set(leaves) | parents)


def rewrite(overrides: Sequence[str], *, multirun: bool = False) -> list[str]:
    """The overrides for Hydra.

    Raises:
        UserError: for an unknown setting, preset or stage, with the nearest names; for a missing ``@`` file.
    """
    names = Names.known()
    experiment_has_prior = any(chooses_prior(override) for override in overrides)
    rewritten = [
        part for override in overrides for part in _rewrite_one(override, names, multirun, experiment_has_prior)
    ]
    if experiment_has_prior:
        # in front, since later overrides win
        rewritten[:0] = [part for override in overrides for part in _without_preset_controlnet(override)]
    if any(part.startswith("export.formats=") for part in rewritten):
        # a saved run's switches must not take away what is asked for now; again in front
        rewritten[:0] = ["export.html=true", "export.video=true"]
    experiments = [stage.experiment for name, stage in STAGES.items() if f"stage={name}" in rewritten]
    if any(experiments) and not any(part.startswith("experiment=") for part in rewritten):
        rewritten += [f"experiment={experiments[0]}"]
    return rewritten


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """Python values as overrides: ``{"optimize.steps": 5, "export.video": False}``; text is taken as it is."""
    quoted = text_keys() | {"prior", *LISTS_OF_FILES}

    def value_of(key: str, value: object) -> str:
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, bool) or value is None:
            return {True: "true", False: "false", None: "null"}[value]
        if isinstance(value, list | tuple):
            return f"[{','.join(value_of(key, item) for item in value)}]"
        return f'"{value}"' if full_key(key) in quoted else str(value)

    return [f"{key}={value_of(key, value)}" for key, value in settings.items()]


def settings_of(overrides: Sequence[str]) -> Settings:
    """The resolved settings of one run, from overrides as the command line has them.

    Raises:
        UserError: for an invalid override, or one that contradicts the saved run.
    """
    given = rewrite(overrides)
    try:
        return resolve(composed(given), given)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(in_one_line(error)) from error


def quote(text: str) -> str:
    """Any text as a quoted value of Hydra's grammar."""
    return QuotedString(escape_interpolation(text), Quote.single).with_quotes()


def strip_quotes(text: str) -> str:
    """``text`` without one matching pair of outer quotes, if it has one."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _rewrite_one(override: str, names: Names, multirun: bool, experiment_has_prior: bool) -> list[str]:
    if override == "doctor":
        return ["stage=doctor"]
    match = _FORM.fullmatch(override)
    if match is None:
        raise UserError(_not_an_override(override, names))
    sign, key, value = match["sign"], full_key(match["key"]), match["value"]
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return [override]
    if key == "prior":
        return _prior(value, names, multirun, experiment_has_prior)
    if key in names.presets:
        _check_words(key, value, names.presets[key], multirun)
        if key == "cluster":
            if "," in value:
                raise UserError(f"cluster={value}: a sweep runs in one place; expected {', '.join(LAUNCHERS)}")
            require_launcher(value)
        return [f"{key}={value}"]
    if key not in names.keys:
        if not HAS_LAB and key.startswith("lab."):
            raise UserError(f"{match['key']} is a setting of the laboratory (avatar_gs/lab), which is not installed")
        nearest = _nearest(key, sorted(names.keys | set(names.presets)))
        raise UserError(f"unknown override {match['key']}{nearest or '; avatar-gs --cfg job prints every setting'}")
    if key in LISTS_OF_FILES:
        return [f"{key}={_files(key, value, multirun)}"]
    if key == "export.formats" and not multirun and not value.startswith("["):
        return [f"{key}=[{value}]"]
    if key in names.texts:
        return [f"{key}={_text(key, value, multirun)}"]
    if key == "seed":
        return [f"{sign}seed={_seeds(value, multirun)}"]
    if key in names.enums:
        _check_words(key, value, names.enums[key], multirun)
    return [f"{sign}{key}={value}"]


def _not_an_override(override: str, names: Names) -> str:
    word = override.lstrip("+~")
    if override.startswith("~"):
        return f"{override}: a setting cannot be deleted, only set (key=value)"
    if full_key(word) in names.keys:
        return f"{override} needs a value: {word}=…"
    return f'{override!r} is no override: expected key=value; a prompt is given as prompt="{override}"'


def _text(key: str, value: str, multirun: bool) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{key}= is not valid UTF-8 text: give it in UTF-8")
    if strip_quotes(value) == MISSING:
        raise UserError(f"{key}={value} is no text: expected words")
    if value == "null" and key == "body.path":
        return value
    if key == "prompt" and value.startswith("@"):
        if multirun:
            return ",".join(quote(line) for line in _prompt_lines(Path(value[1:])))
        if Path(value[1:]).is_file():
            raise UserError(f"prompt={value}: a file of prompts needs -m (one job a line)")
    return quote(strip_quotes(value))


def _seeds(value: str, multirun: bool) -> str:
    """Seeds with ``random`` as Hydra reads it: -1, which every run replaces; in a list, each is drawn here."""
    words = [word.strip() for word in strip_quotes(value).split(",")]
    unset = {"random", str(RANDOM_SEED)}
    if not unset & set(words):
        return value
    if len(words) == 1:
        return str(RANDOM_SEED)
    if not multirun:
        return value
    return ",".join(str(random.SystemRandom().randrange(MAX_SEED)) if word in unset else word for word in words)


def _files(key: str, value: str, multirun: bool) -> str:
    """A list of paths with quoted items, from ``[a,b]`` or a single path; in a sweep, several lists."""
    text = value.strip()
    if text in ("", "null", "[]"):
        return "[]"
    if not (text.startswith("[") and text.endswith("]")):
        return f"[{quote(strip_quotes(text))}]"
    lists = []
    while text:
        items, text = _bracketed(key, value, text)
        lists.append(f"[{','.join(map(quote, items))}]")
        if text and not (multirun and text.startswith(",[")):
            raise UserError(f"{key}={value}: expected one list [<file>,<file>]; found {text!r} after it")
        text = text.removeprefix(",")
    return ",".join(lists)


def _bracketed(key: str, value: str, text: str) -> tuple[list[str], str]:
    """The items of the list at the start of ``text``, and the rest."""
    items, place = [], 1
    while True:
        match = _ITEM.match(text, place)
        if match is None:
            raise UserError(f"{key}={value}: expected [<file>,<file>]; quote a path that holds commas or brackets")
        item = strip_quotes(match["item"].strip())
        if item:
            items.append(item)
        place = match.end()
        if match["end"] == "]":
            return items, text[place:].strip()


def _prompt_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(
            f"prompt=@{path}: cannot read this file of prompts ({reason}); expected one prompt a line"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise UserError(f"prompt=@{path}: the file has no prompts; expected one a line (# begins a comment)")
    different = list(dict.fromkeys(prompts))
    if len(different) < len(prompts):
        LOGGER.info("prompt=@%s: %d lines are repeated, and made once", path, len(prompts) - len(different))
    return different


def _prior(value: str, names: Names, multirun: bool, experiment_has_prior: bool) -> list[str]:
    """A preset (in a sweep: several), or the path or hub name of another prior.

    With an experiment that chooses a prior (``experiment_has_prior``) a path replaces only the weights of that prior:
    its precision and prompts stay, and its ControlNet if the path has none.
    """
    text = strip_quotes(value)
    words = text.split(",") if multirun else [text]
    if all(word in names.presets["prior"] for word in words):
        return [f"prior={text}"]
    if not text:
        raise UserError(
            f"prior= is empty: expected {', '.join(names.presets['prior'])}, a folder, a file or a hub name"
        )
    if multirun and any(word in names.presets["prior"] for word in words):
        raise UserError(f"prior={text}: a sweep over priors takes presets only ({', '.join(names.presets['prior'])})")
    return [*([] if experiment_has_prior else ["prior=custom"]), f"prior.path={quote(text)}"]


def _without_preset_controlnet(override: str) -> list[str]:
    """Overrides that empty the preset's ControlNet and VAE, if ``prior=`` is a folder with a ControlNet; else none."""
    key, _, value = override.partition("=")
    own = key == "prior" and (Path(strip_quotes(value)).expanduser() / "controlnet").is_dir()
    return ["prior.controlnet=''", "prior.vae=''"] if own else []


def _check_words(key: str, value: str, choices: Iterable[str], multirun: bool) -> None:
    """Check plain words, in a sweep comma-separated; Hydra checks everything else (``choice(…)``, lists)."""
    if value and not _WORDS.fullmatch(value):
        return
    for word in value.split(",") if multirun else [value]:
        if word in choices or (word == "null" and key not in Settings.__dataclass_fields__):
            continue
        if key == "stage" and not HAS_LAB:
            raise UserError(
                f"stage={word} is none of {', '.join(choices)}; the laboratory (avatar_gs/lab), which has more stages, "
                "is not installed"
            )
        raise UserError(f"{key}={word} is none of {', '.join(choices)}{_nearest(word, choices)}")


def _nearest(word: str, candidates: Iterable[str]) -> str:
    candidates = list(candidates)
    same_leaf = [name for name in candidates if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = sorted(same_leaf, key=lambda name: -difflib.SequenceMatcher(None, word, name).ratio())
    close += [name for name in difflib.get_close_matches(word, candidates, n=3, cutoff=0.6) if name not in close]
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""
