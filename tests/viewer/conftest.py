"""A headless Chromium for the tests of ``avatar.html``, driven through its DevTools pipe, and a figure to look at."""

import base64
import fcntl
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import write_html

FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-extensions --disable-dev-shm-usage --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--ignore-gpu-blocklist --hide-scrollbars --force-color-profile=srgb --remote-debugging-pipe"
)
DEADLINE = 120.0


class Chromium:
    """One browser with one page. Keeps every request that the page makes, and every error it reports."""

    def __init__(self, program: str, profile: Path) -> None:
        reads, commands = os.pipe()
        answers, writes = os.pipe()
        # The pipes' ends must be the browser's file descriptors 3 and 4: clear of those until the shell moves them.
        browser_ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        script = 'exec "$@" 3<&{} 4>&{}'.format(*browser_ends)
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=browser_ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (reads, writes, *browser_ends):
            os.close(end)
        self._to, self._from = os.fdopen(commands, "wb", buffering=0), os.fdopen(answers, "rb")
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        os.set_blocking(self._from.fileno(), False)
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            answer = self._receive()
            if answer is None:
                time.sleep(0.005)
            elif answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
        raise TimeoutError(f"Chromium did not answer {method}")

    def _receive(self) -> dict[str, Any] | None:
        while b"\0" not in self._buffer:
            chunk = self._from.read(1 << 20)
            if chunk is None:
                return None
            assert chunk, "Chromium has ended"
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        return message

    def open(self, path: Path, options: str = "", size: tuple[int, int] = (320, 400), ratio: float = 1) -> None:
        """Opens a file from disk in a window of ``size`` (CSS pixels) and waits until it is ready or has failed."""
        width, height = size
        mobile = width < 480
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=mobile
        )
        self.send("Page.navigate", url="about:blank")
        self.requests.clear()
        self.errors.clear()
        self.send("Page.navigate", url=path.resolve().as_uri() + (f"#{options}" if options else ""))
        self.wait(
            "document.readyState === 'complete' && ['ready', 'error'].includes(document.documentElement.dataset.state)"
        )
        if self.evaluate("document.getElementById('canvas') && document.documentElement.dataset.state === 'ready'"):
            self.wait("getComputedStyle(canvas).opacity === '1'")
            if self.evaluate("spin.getAttribute('aria-pressed') === 'false'"):
                self.wait("document.documentElement.dataset.frame === 'done'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript condition holds."""
        deadline = time.monotonic() + DEADLINE
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"the page never came to {condition}; errors: {self.errors}"
            time.sleep(0.02)

    def view(self) -> tuple[float, float, float]:
        """Azimuth, elevation (degrees) and distance (metres) of the final frame."""
        self.wait("document.documentElement.dataset.frame === 'done'")
        azimuth, elevation, distance = map(float, self.evaluate("document.documentElement.dataset.view").split())
        return azimuth, elevation, distance

    def screenshot(self) -> np.ndarray:
        """The page as it looks now, uint8 [H, W, 3]."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def close(self) -> None:
        self._session = ""
        try:
            self.send("Browser.close")
            self.process.wait(10)
        except (AssertionError, TimeoutError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        finally:
            self._to.close()
            self._from.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser of all tests. Without one, CI fails; a user's machine skips with the reason."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        reason = "testing avatar.html needs chromium, chromium-browser or google-chrome on PATH (apt install chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    browser = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(figure: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "avatar.html"
    write_html(path, figure, "a block figure </script><script>document.title = 'broken'</script>")
    return path


@pytest.fixture
def face_at(chromium: Chromium) -> Callable[[], tuple[float, float]]:
    """Position (column, row) of the figure's yellow face in the browser's image."""

    def find() -> tuple[float, float]:
        rows, columns = np.nonzero(np.abs(chromium.screenshot().astype(float) - (255, 230, 51)).max(-1) < 24)
        assert len(rows) > 20
        return columns.mean(), rows.mean()

    return find
