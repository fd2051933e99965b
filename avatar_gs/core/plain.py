"""Settings as plain values, for files."""

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any


def plain(value: Any) -> Any:
    """A dataclass of settings as dictionaries, lists, strings, numbers, booleans and None.

    Sections without settings (``guidance.sds``) are left out.
    """
    if is_dataclass(value):
        values = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return {name: plain(entry) for name, entry in values.items() if not is_dataclass(entry) or fields(entry)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one of dotted keys; lists are values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
