"""The presets of guidance, read without Hydra."""

from dataclasses import is_dataclass, replace
from enum import Enum
from typing import Any, get_type_hints

import yaml

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import CONF
from avatar_gs.guidance.config import GuidanceConfig


def named_preset(name: str) -> GuidanceConfig:
    """The settings of ``guidance=<name>``. Methods have a preset of their own name.

    Raises:
        UserError: if there is no such preset.
    """
    return _build(GuidanceConfig, _content(name))


def fitted(config: GuidanceConfig, steps: int) -> GuidanceConfig:
    """The same for a run of ``steps`` steps (``MethodConfig.fitted``)."""
    return replace(config, **{config.method: config.chosen.fitted(steps)})


def preset_names() -> list[str]:
    """All presets in alphabetical order."""
    return sorted(file.stem for file in (CONF / "guidance").glob("*.yaml"))


def _content(name: str) -> dict[str, Any]:
    """The nested values of a preset over those of the presets in its ``defaults``."""
    file = CONF / "guidance" / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"guidance={name}: no such preset; expected one of {', '.join(preset_names())}")
    own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    content: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        content = _merged(content, _content(base))
    return _merged(content, own)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _merged(below[key], value) for key, value in above.items() if isinstance(below.get(key), dict)}
    return below | above | nested


def _build(section: type, content: dict[str, Any]) -> Any:
    types = get_type_hints(section)
    return section(**{name: _value(types[name], value) for name, value in content.items()})


def _value(expected: type, value: Any) -> Any:
    if is_dataclass(expected):
        return _build(expected, value)
    return expected[value] if issubclass(expected, Enum) else expected(value)
