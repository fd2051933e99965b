"""The presets of guidance, read without Hydra."""

from dataclasses import is_dataclass, replace
from enum import Enum
from typing import Any, get_type_hints

from avatar_gs.core import presets
from avatar_gs.guidance.config import GuidanceConfig


def named_preset(name: str) -> GuidanceConfig:
    """The settings of ``guidance=<name>``. Methods have a preset of their own name.

    Raises:
        UserError: if there is no such preset.
    """
    return _build(GuidanceConfig, presets.read_preset("guidance", name).values)


def fitted(config: GuidanceConfig, steps: int) -> GuidanceConfig:
    """The same for a run of ``steps`` steps (``MethodConfig.fitted``)."""
    return replace(config, **{config.method: config.chosen.fitted(steps)})


def preset_names() -> list[str]:
    """All presets in alphabetical order."""
    return presets.preset_names("guidance")


def _build(section: type, content: dict[str, Any]) -> Any:
    types = get_type_hints(section)
    return section(**{name: _value(types[name], value) for name, value in content.items()})


def _value(expected: type, value: Any) -> Any:
    if is_dataclass(expected):
        return _build(expected, value)
    return expected[value] if issubclass(expected, Enum) else expected(value)
