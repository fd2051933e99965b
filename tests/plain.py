"""Settings of guidance without what the default recipe adds to DE-SDS."""

from dataclasses import replace

from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.methods.de_sds import DeSdsConfig
from avatar_gs.guidance.presets import named_preset


def plain_guidance(method: str = "de_sds", **options) -> GuidanceConfig:
    """w(t) = sigma², a square-root schedule, one update per target, no added noise."""
    return replace(named_preset("de_sds"), method=method, **options)


def plain_de_sds(**options) -> DeSdsConfig:
    """y_con learns in every step, and nothing else is subtracted."""
    return DeSdsConfig(**{"noise_share": 0.0, "update_every": 1, **options})
