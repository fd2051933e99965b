"""``stage=animate`` and ``pose=`` from the command line, on a tiny run."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs import cli
from avatar_gs.body.model import load_body
from avatar_gs.core.io import save_state
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.ply import read_ply
from avatar_gs.settings import Settings
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import surface_splats

EXPORT = ["stage=export", "name=red", "export.video=false", "export.html=false"]
ANIMATE = ["stage=animate", "name=red", "animate.size=64", "animate.fps=5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, whose avatar is splats on the body's surface."""
    path = tmp_path_factory.mktemp("animate") / "outputs" / "red"
    settings = Settings(prompt="a man in red", device="cpu", name="red")
    body = load_body(settings.body)
    model = surface_splats(SplatsConfig(count=600), body.rest(), body.weights, torch.Generator().manual_seed(0))
    with RunFolder.open(path, settings.plain()) as folder:
        tensors = {f"splats/{name}": value for name, value in model.tensors().items()}
        save_state(folder.avatar_checkpoint, tensors, {})
        folder.record("optimize")
    return path


@pytest.fixture(autouse=True)
def there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])


def frames(path: Path, pixels: str) -> np.ndarray:
    """Every frame of a video, decoded by ffmpeg."""
    decoder = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else []
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *decoder, "-i", str(path)]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", pixels, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 64, 64, 4 if pixels == "rgba" else 3).astype(int)


def test_a_packaged_motion_becomes_a_video_a_skeleton_and_splats(run: Path) -> None:
    assert cli.main([*ANIMATE, "motion=squat", "animate.ply=9"]) == 0
    shown = frames(run / "motions" / "squat.mp4", "rgb24")
    assert len(shown) == 18, "3.6 seconds"
    grey = shown[0, 0, 0]
    avatar = np.abs(shown - grey).max(-1) > 30
    top = avatar.any(2).argmax(1)
    assert top[9] > top[0] + 8, "the head is lower in the middle"
    assert not avatar[:, [0, -1]].any(), "and always in the image"
    splats = read_ply(run / "motions" / "squat-00009.ply")
    assert 0.6 < splats.means[:, 1].max() < 1.3, "metres"
    assert abs(float(splats.means[:, 1].min())) < 0.05
    assert cli.main([*ANIMATE, f"motion={run}/motions/squat.bvh", "animate.seconds=1", "animate.format=png"]) == 0
    again = sorted((run / "motions" / "squat").glob("*.png"))
    assert len(again) == 5
    image = np.asarray(Image.open(again[0]))
    assert image.shape == (64, 64, 4)
    assert image[0, 0, 3] == 0
    assert image[..., 3].max() == 255


def test_webm_is_transparent_behind_the_avatar(run: Path) -> None:
    assert cli.main([*ANIMATE, "motion=walk", "animate.format=webm"]) == 0
    shown = frames(run / "motions" / "walk.webm", "rgba")
    assert len(shown) >= 5
    assert shown[0, 0, 0, 3] < 8
    assert shown[..., 3].max() > 240
    inside = shown[..., 3] > 250
    assert abs(shown[inside][:, :3].mean() - 128) < 60, "splats that were never trained are grey"


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["motion="], "stand|turn|wave"),
        (["motion=moonwalk"], "no such file"),
        (["motion=walk", "animate.ply=500"], "from 0 to"),
        (["motion=walk", "animate.ply=some"], "or all"),
        (["motion=walk", "animate.start=60"], "ends after"),
        (["motion=walk", "animate.size=65"], "even"),
        (["motion=walk", "name=nobody"], "stage=animate needs name"),
    ],
)
def test_mistakes_get_one_line(overrides: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ANIMATE, *overrides]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert word in errors[0]


def test_pose_changes_what_is_exported_and_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(EXPORT) == 0
    before = (run / "avatar.ply").read_bytes()
    assert cli.main([*EXPORT, "pose=sit"]) == 0
    assert read_ply(run / "avatar.ply").means[:, 1].max() < 1.5
    assert cli.main([*EXPORT, "pose=nobody"]) == 1
    assert "no such file" in capsys.readouterr().err
    assert cli.main(["name=red", "export.video=false", "export.html=false"]) == 0, "the run's own files again"
    assert (run / "avatar.ply").read_bytes() == before
