"""The command on the device with a tiny prior: a person from photos, an avatar with previews, its files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from avatar_gs import cli
from avatar_gs.stages import embed, preview
from tests.cuda.devices import DEVICE, on_request

PRIOR = [
    f"device={DEVICE}",
    "prior.prompts.style=mini",
    "prior.prompts.identity_framings=[body,head,upper,lower]",
    "prior.prompts.identity_views=[front,side,back]",
]
PERSON = ["embed.steps=2", "embed.batch=2", "embed.min_size=8", "embed.preview_every=1", "embed.tokens=1"]
AVATAR = [
    "optimize.steps=3",
    "optimize.batch=2",
    "optimize.preview_every=2",
    "splats.count=300",
    "guidance.noise.kind=surface",
    "guidance.noise.points=2000",
]
FILES = ["export.video_size=64", "export.video_fps=4", "export.video_seconds=0.5"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; previews have few samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embed, "SAMPLE_STEPS", 2)
    monkeypatch.setattr(preview, "STEPS", 2)
    monkeypatch.setattr(preview, "SAMPLES", 1)
    return tmp_path


def photos(folder: Path) -> Path:
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@on_request
def test_photos_become_an_identity_an_avatar_and_its_files(here: Path, tiny_folder: Path) -> None:
    photos(here / "anna")
    words = [f"prior={tiny_folder}", *PRIOR, *PERSON, *AVATAR, *FILES, "embed.clothes=bound"]
    assert cli.main(["photos=./anna", "prompt=<id> in red", "name=anna", *words]) == 0
    run = here / "outputs" / "anna"
    stages = json.loads((run / "metrics.json").read_text())["stages"]
    assert stages["embed"]["steps"] == 2 and stages["optimize"]["steps"] == 3
    assert {"avatar.ply", "avatar.html", "turntable.mp4"} <= {path.name for path in run.iterdir()}
    with Image.open(run / "previews" / "step_000002.png") as sheet:
        assert np.asarray(sheet).std() > 1
    splats = PlyData.read(str(run / "avatar.ply"))["vertex"]
    assert len(splats) > 100 and all(np.isfinite(splats[name]).all() for name in ("x", "y", "z", "opacity", "f_dc_0"))
    moved = ["stage=animate", "motion=wave", "animate.seconds=0.5", "animate.size=64"]
    assert cli.main([*moved, "name=anna", f"device={DEVICE}"]) == 0
    assert (run / "motions" / "wave.mp4").stat().st_size > 0


@on_request
def test_the_priors_preview_is_written(here: Path, tiny_folder: Path) -> None:
    assert cli.main(["stage=preview", "prompt=a man in red", "name=look", f"prior={tiny_folder}", *PRIOR]) == 0
    assert list((here / "outputs" / "look" / "previews").glob("*.png"))
