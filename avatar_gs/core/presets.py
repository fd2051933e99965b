"""The presets of ``conf/``, read without Hydra: one folder for each setting that they choose, one YAML file each.

A file whose name begins with ``_`` is a base that other presets of its folder inherit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import CONF


@dataclass(frozen=True)
class Preset:
    """What a preset sets.

    Args:
        values: its settings, with those of the presets that its ``defaults`` inherit.
        choices: the presets of other folders that it chooses, such as ``{"prior": "sd15"}``.
    """

    values: dict[str, Any]
    choices: dict[str, str]


def preset_names(group: str) -> list[str]:
    """The presets that ``<group>=<name>`` chooses among, in alphabetical order."""
    return sorted(file.stem for file in (CONF / group).glob("[!_]*.yaml"))


def preset_groups() -> dict[str, list[str]]:
    """The folders of presets, and the names in each."""
    return {folder.name: preset_names(folder.name) for folder in sorted(CONF.iterdir()) if folder.is_dir()}


def read_preset(group: str, name: str) -> Preset:
    """A preset with all that it inherits; its own values override those.

    Raises:
        UserError: if there is no such preset.
    """
    file = CONF / group / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"{group}={name}: no such preset; expected one of {', '.join(preset_names(group))}")
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    values: dict[str, Any] = {}
    choices: dict[str, str] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, Mapping):  # "override /prior: sd15"
            choices |= {key.split("/")[-1]: choice for key, choice in entry.items()}
        elif entry != "_self_":
            base = read_preset(group, entry)
            values, choices = _merged(values, base.values), choices | base.choices
    return Preset(_merged(values, content), choices)


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one; ``high`` overrides ``low``."""
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
