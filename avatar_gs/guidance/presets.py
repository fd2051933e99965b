"""Each method as its paper has it: the presets of ``conf/guidance``, read without Hydra."""

from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from avatar_gs.guidance.config import GuidanceConfig, Method

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The folder of presets: inside an installed package, beside it in a checkout."""


def preset(method: Method) -> GuidanceConfig:
    """What ``guidance=<method>`` sets, and the defaults for the rest."""
    content = yaml.safe_load((CONF / "guidance" / f"{method.name}.yaml").read_text(encoding="utf-8"))
    return _build(GuidanceConfig, content)


def _build(kind: type, content: dict[str, Any]) -> Any:
    types = get_type_hints(kind)
    return kind(**{name: _value(types[name], value) for name, value in content.items()})


def _value(kind: type, value: Any) -> Any:
    if is_dataclass(kind):
        return _build(kind, value)
    return kind[value] if issubclass(kind, Enum) else kind(value)
