"""Folders of runs as the program leaves them, made without a run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from avatar_gs.pages.write import write_pages
from avatar_gs.settings import Settings
from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import write_html
from tests.viewer.conftest import chromium  # noqa: F401 (a fixture)

FRAMES = np.stack([np.full((64, 64, 3), level, np.uint8) for level in range(40, 240, 10)])
MakeRun = Callable[..., Path]


def optimized(**more: Any) -> dict[str, Any]:
    """The figures of a finished optimisation."""
    curves = {"steps": [1, 2, 3], "values": {"guidance/grad_norm": [9.0, None, 4.0], "loss/scale": [0.1, 0.2, 0.3]}}
    figures = {"steps": 3, "splats": 5000, "seconds_per_step": {"render": 0.1, "total": 0.2}, "prior_calls": 24}
    return {
        "finished": True,
        **figures,
        "skipped_steps": 0,
        "peak_memory_mib": {"host": 2048.0},
        "curves": curves,
    } | more


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def make_run(outputs: Path) -> MakeRun:
    """Makes the folder of a finished run; ``age`` in seconds orders runs. Without ``pages``, it has no images yet."""

    def make(
        name: str,
        *,
        prompt: str = "a man in red",
        age: float = 0,
        splats: Gaussians | None = None,
        pages: bool = True,
        **more: Any,
    ) -> Path:
        folder = outputs / name
        folder.mkdir(parents=True)
        settings = Settings(prompt=prompt, name=name, **more)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings.plain(), allow_unicode=True), encoding="utf-8")
        stages = {"optimize": optimized(), "export": {"finished": True, "files": ["avatar.ply"]}}
        (folder / "metrics.json").write_text(json.dumps({"schema": 1, "stages": stages}))
        (folder / "avatar.ply").write_bytes(b"ply")
        if splats is not None:
            write_html(folder / "avatar.html", splats, prompt)
        if not pages:
            return folder
        (folder / "previews").mkdir()
        for step in (100, 200):
            Image.new("RGB", (96, 48), (step, 90, 90)).save(folder / "previews" / f"step_{step:06d}.png")
        for file in folder.iterdir():
            os.utime(file, (1.7e9 - age, 1.7e9 - age))
        write_pages(folder, outputs, FRAMES, 2.0)
        return folder

    return make
