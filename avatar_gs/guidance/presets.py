"""Each method as its paper has it: the presets of ``conf/guidance``, read without Hydra."""

from dataclasses import is_dataclass, replace
from enum import Enum
from typing import Any, get_type_hints

import yaml

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import CONF
from avatar_gs.guidance.config import GuidanceConfig, Method

WARMUP_SHARE = 0.6
"""Of a run: what 300 steps of warm-up are of 500, the playground's."""


def preset(method: Method) -> GuidanceConfig:
    """What ``guidance=<method>`` sets, and the defaults for the rest."""
    return named_preset(method.name)


def named_preset(name: str) -> GuidanceConfig:
    """What ``guidance=<name>`` sets, and the defaults for the rest.

    Raises:
        UserError: if no preset is called so.
    """
    file = CONF / "guidance" / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"guidance={name}: no such preset; expected one of {', '.join(preset_names())}")
    return _build(GuidanceConfig, yaml.safe_load(file.read_text(encoding="utf-8")))


def fitted(config: GuidanceConfig, steps: int) -> GuidanceConfig:
    """The same for a run of so many steps: robust NFSD's warm-up takes at most ``WARMUP_SHARE`` of it."""
    if config.method is not Method.robust_nfsd:
        return config
    warmup = min(config.robust_nfsd.warmup_steps, round(WARMUP_SHARE * steps))
    return replace(config, robust_nfsd=replace(config.robust_nfsd, warmup_steps=warmup))


def preset_names() -> list[str]:
    """Every ``guidance=<name>``, in alphabetical order."""
    return sorted(file.stem for file in (CONF / "guidance").glob("*.yaml"))


def _build(kind: type, content: dict[str, Any]) -> Any:
    types = get_type_hints(kind)
    return kind(**{name: _value(types[name], value) for name, value in content.items()})


def _value(kind: type, value: Any) -> Any:
    if is_dataclass(kind):
        return _build(kind, value)
    return kind[value] if issubclass(kind, Enum) else kind(value)
