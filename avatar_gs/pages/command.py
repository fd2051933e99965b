"""The command that makes a run again, from its saved settings: presets that come nearest, then what differs."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from avatar_gs.core.plain import flat
from avatar_gs.core.presets import Preset, preset_names, read_preset
from avatar_gs.settings import Settings

FIRST = {"prior": "mini", "guidance": "anchored_de_sds"}
"""The presets of a command that names none, as in ``conf/config.yaml``."""
PROGRAM = "avatar-gs"
_NOT_OF_A_RUN = ("stage", "overwrite", "debug", "motion", "animate", "view")
_IN_FRONT = ("prompt", "photos", "identity", "init", "source_prompt", "name", "outputs", "seed")
_ALWAYS = ("prompt", "seed")
_PLAIN = re.compile(r"[\w./-]+")


@dataclass(frozen=True)
class Choice:
    """How a command chooses settings: presets by their groups, and settings that differ from these."""

    presets: dict[str, str]
    settings: dict[str, Any]

    @property
    def length(self) -> int:
        """Number of words of the command."""
        return len(self.presets) + len(self.settings)


def command_line(config: Mapping[str, Any]) -> str:
    """The command that makes a run again, for a POSIX shell.

    Args:
        config: the run's saved settings (``config.yaml``); what is missing is at its default.
    """
    return shlex.join([PROGRAM, *overrides(config)])


def overrides(config: Mapping[str, Any]) -> list[str]:
    """The words of the command after the program's name."""
    choice = shortest(config)
    given = flat(dict(config))
    front = {key: given[key] for key in _IN_FRONT if key in choice.settings or (key in _ALWAYS and key in given)}
    rest = {key: value for key, value in choice.settings.items() if key not in front}
    words = [f"{group}={name}" for group, name in choice.presets.items()]
    return words + [_word(key, value) for key, value in (front | rest).items()]


def shortest(config: Mapping[str, Any]) -> Choice:
    """The presets with which the fewest settings are left to name."""
    given = {key: value for key, value in flat(dict(config)).items() if _is_of_a_run(key)}
    compared = _comparable(given)
    choices = []
    for experiment, (own, chosen) in _experiments().items():
        presets = {"experiment": experiment} if experiment else {}
        settings = _comparable(_defaults())
        for group in FIRST:
            usual = chosen.get(group, FIRST[group])
            name = _nearest(group, usual, compared, own)
            presets |= {group: name} if name != usual else {}
            settings |= _composed(group, name)
        settings |= own
        differing = {key: value for key, value in given.items() if compared[key] != settings[key]}
        choices.append(Choice(presets, differing))
    return min(choices, key=lambda choice: choice.length)


def _nearest(group: str, usual: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The preset of a group that leaves the fewest settings of it different, ``usual`` if it is among them."""

    def cost(name: str) -> int:
        settings = {**_composed(group, name), **{key: value for key, value in own.items() if key.startswith(group)}}
        return sum(given[key] != value for key, value in settings.items() if key in given) + (name != usual)

    return min((usual, *_names(group)), key=cost)


def _is_of_a_run(key: str) -> bool:
    return key in _defaults() and key.partition(".")[0] not in _NOT_OF_A_RUN


@lru_cache
def _defaults() -> dict[str, Any]:
    return flat(Settings().plain())


@lru_cache
def _names(group: str) -> list[str]:
    return preset_names(group)


@lru_cache
def _experiments() -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Of every experiment, and of none, the settings that it sets, comparable, and the presets that it chooses."""
    presets = {"": Preset({}, {})} | {name: read_preset("experiment", name) for name in preset_names("experiment")}
    return {name: (_comparable(flat(preset.values)), preset.choices) for name, preset in presets.items()}


@lru_cache
def _composed(group: str, name: str) -> dict[str, Any]:
    """The settings of a group with a preset, comparable."""
    own = {f"{group}.{key}": value for key, value in flat(read_preset(group, name).values).items()}
    return _comparable({key: value for key, value in _defaults().items() if key.startswith(f"{group}.")} | own)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are equal where they mean the same: YAML reads 1e-3 as text, and True is no 1."""
    return {key: _number(value) for key, value in settings.items()}


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return value
    return value


def _word(key: str, value: Any) -> str:
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(_item(item) for item in value)}]"
    text = str(value)
    # One pair of outer quotes is taken off by the command, and an empty value needs one.
    quoted = text[:1] in ("'", '"') and len(text) > 1 and text[0] == text[-1]
    return f'"{text}"' if quoted or (isinstance(value, str) and text == "") else text


def _item(value: Any) -> str:
    text = str(value)
    mark = "'" if '"' in text else '"'
    return text if _PLAIN.fullmatch(text) else f"{mark}{text}{mark}"


def differing(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The settings in which runs differ, by dotted name; names of runs are none."""
    flats = [{key: value for key, value in flat(dict(config)).items() if _is_of_a_run(key)} for config in configs]
    keys = dict.fromkeys(key for config in flats for key in config if key not in ("name", "outputs"))
    return [key for key in keys if any(_number(config.get(key)) != _number(flats[0].get(key)) for config in flats)]
