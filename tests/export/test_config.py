"""Settings that make no sense are refused by name."""

from typing import Any

import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.export.config import ExportConfig, Frame


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"min_scale": 0.0}, "export.min_scale=0.0"),
        ({"min_scale": 0.3}, "export.max_scale=0.25"),
        ({"max_scale": float("inf")}, "export.max_scale=inf"),
        ({"max_scale": float("nan")}, "export.max_scale=nan"),
        ({"min_opacity": 1.0}, "export.min_opacity=1.0"),
        ({"min_opacity": -0.1}, "export.min_opacity=-0.1"),
        ({"video_size": 511}, "export.video_size=511"),
        ({"video_size": 0}, "export.video_size=0"),
        ({"video_fps": 0}, "export.video_fps=0"),
        ({"video_seconds": 1e9}, "export.video_seconds=1000000000.0"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ExportConfig(**values)


def test_defaults() -> None:
    config = ExportConfig()
    assert config.frame is Frame.supersplat
    assert config.video_frames == 96
