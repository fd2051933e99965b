"""Settings of the laboratory for tests."""

from dataclasses import fields, replace
from typing import Any

from avatar_gs.lab.settings import LabConfig, LabSettings
from avatar_gs.settings import Settings


def lab_settings(base: Settings | None = None, **options: Any) -> LabSettings:
    """``base`` (by default, the defaults) with ``options``, which name settings of the product or of ``lab``."""
    base = base or LabSettings()
    product = {entry.name: getattr(base, entry.name) for entry in fields(base)}
    lab = product.pop("lab", LabConfig())
    changed = {name: options.pop(name) for name in list(options) if name in LabConfig.__dataclass_fields__}
    return LabSettings(lab=replace(lab, **changed), **product | options)
