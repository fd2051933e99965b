"""Frames as video files that every browser and player shows: MP4, or WebM with transparency."""

import errno
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from avatar_gs.core.io import atomic_write

# The encoders' output depends on the number of threads: fixed, so that the same frames give the same bytes.
_THREADS = "2"
# Tag the colour matrix; players otherwise guess, and shift hues.
_COLOURS = [
    "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709",
    "-color_trc", "bt709", "-color_range", "tv",
]  # fmt: skip
_MP4 = [
    "-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p", "-threads", _THREADS,
    "-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mp4",
]  # fmt: skip
_WEBM = [
    "-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-cpu-used", "4",
    "-threads", _THREADS, "-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "webm",
]  # fmt: skip


def encode_video(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], fps: int = 24) -> None:
    """Write H.264 in the yuv420p format, with the index at the start of the file.

    Args:
        path: the file.
        frames: RGB, of even height and width.
        fps: frames per second.

    Raises:
        ValueError: for no frames, or odd sides.
        OSError: if the file cannot be written.
    """
    count, height, width, _ = frames.shape
    if count == 0:
        raise ValueError(f"expected at least one frame with even sides, found {count} of {width} x {height} pixels")
    stream_video(path, frames, (width, height), fps)


def stream_video(
    path: str | Path,
    frames: Iterable[UInt8[np.ndarray, "H W C"]],
    size: tuple[int, int],
    fps: int | float,
    *,
    transparent: bool = False,
) -> None:
    """Write frames as they come: H.264 in an MP4 file, or VP9 with transparency in a WebM file.

    Args:
        path: the file.
        frames: RGB; RGBA (not premultiplied) where ``transparent``.
        size: width and height in pixels, both even.
        fps: frames per second.
        transparent: write a WebM file.

    Raises:
        ValueError: for odd sides.
        OSError: if the file cannot be written.
    """
    width, height = size
    if height % 2 or width % 2:
        raise ValueError(f"expected at least one frame with even sides, found some of {width} x {height} pixels")
    with atomic_write(path) as temporary, tempfile.TemporaryFile() as messages:
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin", "-f", "rawvideo",
            "-pix_fmt", "rgba" if transparent else "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0",
            *_COLOURS, *(_WEBM if transparent else _MP4), str(temporary),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(np.ascontiguousarray(frame).data)
            process.stdin.close()
        except BrokenPipeError:
            pass  # its message follows
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait():
            messages.seek(0)
            reason = messages.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            code = errno.ENOSPC if "No space left" in reason[-1] else errno.EIO
            raise OSError(code, f"ffmpeg ended with {process.returncode}: {reason[-1]}")
