"""The turntable video, decoded again."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from avatar_gs.export.video import encode_video

COLORS = np.array([[200, 30, 40], [40, 180, 60], [30, 60, 200], [128, 128, 128]], np.uint8)


def frames(height: int = 48, width: int = 64) -> np.ndarray:
    """One frame of each colour, with a white square at the upper left."""
    images = np.broadcast_to(COLORS[:, None, None], (len(COLORS), height, width, 3)).copy()
    images[:, :16, :16] = 255
    return images


def test_decoded_frames_have_the_shape_the_colours_and_the_order(tmp_path: Path) -> None:
    path = tmp_path / "turntable.mp4"
    encode_video(path, frames(), fps=10)
    reader = imageio_ffmpeg.read_frames(path)
    info = next(reader)
    decoded = [np.frombuffer(data, np.uint8).reshape(48, 64, 3) for data in reader]
    assert info["size"] == (64, 48)
    assert info["fps"] == 10
    assert info["pix_fmt"].startswith("yuv420p")
    assert len(decoded) == len(COLORS)
    for image, color in zip(decoded, COLORS, strict=True):
        np.testing.assert_allclose(image[24:, 24:].reshape(-1, 3).mean(0), color, atol=6)
        assert image[2:14, 2:14].min() > 235


def test_playing_can_start_before_all_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "turntable.mp4"
    encode_video(path, frames())
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        encode_video(tmp_path / name, frames())
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("shape", [(0, 48, 64, 3), (2, 47, 64, 3), (2, 48, 63, 3)])
def test_what_h264_cannot_hold_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="even sides"):
        encode_video(tmp_path / "a.mp4", np.zeros(shape, np.uint8))


def test_a_failed_write_leaves_the_earlier_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "turntable.mp4"
    encode_video(path, frames())
    before = path.read_bytes()

    program = tmp_path.parent / "ffmpeg"
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\nprintf half > "$last"\ncat > /dev/null\n'
        "echo 'av_interleaved_write_frame(): No space left on device' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(OSError, match="No space left on device"):
        encode_video(path, frames())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["turntable.mp4"]
