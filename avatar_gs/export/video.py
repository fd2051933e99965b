"""Frames as an MP4 file that every browser and player shows."""

import errno
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from avatar_gs.core.io import atomic_write

# x264's output depends on the number of threads: fixed, so that the same frames give the same bytes.
_THREADS = "2"


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
    if count == 0 or height % 2 or width % 2:
        raise ValueError(f"expected at least one frame with even sides, found {count} of {width} x {height} pixels")
    with atomic_write(path) as temporary:
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0",
            # Tag the colour matrix; players otherwise guess, and shift hues.
            "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709",
            "-color_trc", "bt709", "-color_range", "tv",
            "-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p", "-threads", _THREADS,
            "-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mp4", str(temporary),
        ]  # fmt: skip
        result = subprocess.run(command, input=np.ascontiguousarray(frames).data, capture_output=True, check=False)
        if result.returncode:
            reason = result.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            code = errno.ENOSPC if "No space left" in reason[-1] else errno.EIO
            raise OSError(code, f"ffmpeg ended with {result.returncode}: {reason[-1]}")
