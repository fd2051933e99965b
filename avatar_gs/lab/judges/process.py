"""Judges that were trained on photographs of real people: faces, bodies, hands, silhouettes, identities.

Their libraries need versions that this package cannot have (protobuf 4), so that they run in an environment and a
process of their own, which ``make judges`` sets up. Requests and replies are a line of JSON each, followed by the bytes
of an array if ``shape`` is not null.
"""

import contextlib
import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from jaxtyping import Float, UInt8

from avatar_gs.core.errors import UserError, first_line

WORKER = Path(__file__).with_name("worker.py")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
DEFAULT_PYTHON = ".venv-judges/bin/python"
"""The interpreter that ``make judges`` sets up, below the working directory."""
MEDIAPIPE = "mediapipe==0.10.14"
"""The last release with all models in its wheel and without a limit on NumPy."""
INSTALL = f"`make judges` in a checkout sets it up; elsewhere: python3.11 -m venv .venv-judges, then its pip install \
--no-deps {MEDIAPIPE} and pip install -r {REQUIREMENTS}"

Images = UInt8[np.ndarray, "N H W 3"]


@dataclass(frozen=True)
class Face:
    """A face that MediaPipe's short-range detector found.

    Args:
        score: 0.5 to 1.
        box: left, top, width and height in pixels.
    """

    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class BodyLandmarks:
    """MediaPipe's 33 landmarks of a body (BlazePose)."""

    points: Float[np.ndarray, "33 2"]
    """x and y in pixels."""
    visibility: Float[np.ndarray, "33"]
    """Probability that the point is visible, 0 to 1."""


@dataclass(frozen=True)
class Hand:
    """A hand that MediaPipe found.

    Args:
        side: left or right, of the person.
        score: certainty of the side, 0 to 1.
        points: 21 points, x and y in pixels.
    """

    side: str
    score: float
    points: Float[np.ndarray, "21 2"]


class Judges:
    """The judges' process; a context manager that ends it.

    All images of a call have one size. Every method gives one result per image.

    Args:
        python: an interpreter with the judges' libraries.

    Raises:
        UserError: there is no such interpreter, or it lacks a library.
    """

    def __init__(self, python: str = DEFAULT_PYTHON) -> None:
        self.python = python
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        command = [str(Path(python).expanduser()), "-I", str(WORKER)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=-1
            )
        except OSError as error:
            self._log.close()
            raise UserError(f"evaluate.judges={python}: no interpreter ({error.strerror}): {INSTALL}") from error
        message, _ = self._reply()
        if "missing" in message:
            self.close()
            raise UserError(f"evaluate.judges={python}: {first_line(ImportError(message['missing']))}: {INSTALL}")
        self.versions: dict[str, str] = message["versions"]
        """Versions of the judges' libraries."""

    def __enter__(self) -> "Judges":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what an ended process did not read
                    pipe.close()
        self._process.wait()
        self._log.close()

    def faces(self, images: Images) -> list[Face | None]:
        """The most certain face of each image."""
        return [
            None if face is None else Face(face["score"], (*face["box"],)) for face in self._results("faces", images)
        ]

    def face_meshes(self, images: Images) -> list[Float[np.ndarray, "468 2"] | None]:
        """The points of the fitted face mesh of each image in pixels."""
        return [None if mesh is None else np.array(mesh) for mesh in self._results("meshes", images)]

    def bodies(self, images: Images) -> list[BodyLandmarks | None]:
        """The body of each image."""
        return [
            None if body is None else BodyLandmarks(np.array(body["points"]), np.array(body["visibility"]))
            for body in self._results("bodies", images)
        ]

    def hands(self, images: Images) -> list[list[Hand]]:
        """The hands of each image, at most two."""
        return [
            [Hand(hand["side"], hand["score"], np.array(hand["points"])) for hand in found]
            for found in self._results("hands", images)
        ]

    def silhouettes(self, images: Images) -> Float[np.ndarray, "N H W"]:
        """Probability of a person at each pixel by MediaPipe's selfie segmentation."""
        _, masks = self._ask("silhouettes", images)
        if masks is None:
            raise ValueError("silhouettes without masks")
        return masks.astype(np.float32) / 255

    def identities(self, images: Images) -> list[Float[np.ndarray, "128"] | None]:
        """Features of dlib's recogniser for the most certain face of each image."""
        return [None if one is None else np.array(one) for one in self._results("identities", images)]

    def _results(self, judge: str, images: Images) -> Sequence[Any]:
        return self._ask(judge, images)[0]

    def _ask(self, judge: str, images: Images) -> tuple[Sequence[Any], np.ndarray | None]:
        """Results of one judge, and its array if it gives one."""
        if not len(images):
            return [], np.zeros(images.shape[:3], np.uint8)
        requests = self._process.stdin
        assert requests is not None
        try:
            requests.write(json.dumps({"judge": judge, "shape": images.shape}).encode() + b"\n")
            requests.write(images.tobytes())
            requests.flush()
        except OSError as error:
            raise self._failure() from error
        message, array = self._reply()
        return message["results"], array

    def _reply(self) -> tuple[dict[str, Any], np.ndarray | None]:
        replies = self._process.stdout
        assert replies is not None
        try:
            message = json.loads(replies.readline())
            shape = message["shape"]
            array = None
            if shape is not None:
                array = np.frombuffer(replies.read(math.prod(shape)), np.uint8).reshape(shape)
        except (ValueError, TypeError, KeyError) as error:
            raise self._failure() from error
        return message, array

    def _failure(self) -> UserError:
        """What the process said last."""
        self._process.kill()
        self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        reason = lines[-1].strip() if lines else f"exit code {self._process.returncode}"
        return UserError(f"evaluate.judges={self.python}: the judges' process ended ({reason}): {INSTALL}")
