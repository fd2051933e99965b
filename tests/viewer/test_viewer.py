"""``avatar.html`` in a real browser: what its pixels show, and what it asks of the network."""

import http.server
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avatar_gs.geometry import project
from avatar_gs.render.cameras import orbit
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians
from avatar_gs.viewer.html import write_html

FaceAt = Callable[[], tuple[float, float]]
SIZE, FOV, DISTANCE, TARGET = 360, 40.0, 3.6, (0.0, 1.1, 0.0)
GREY = (127, 127, 127)
BARE = f"spin=0&controls=0&background=7f7f7f&fov={FOV}&distance={DISTANCE}&target={','.join(map(str, TARGET))}"


def camera(azimuth: float, elevation: float) -> Cameras:
    span = 2 * DISTANCE * math.tan(math.radians(FOV / 2))
    azimuths, elevations, fovs = torch.deg2rad(torch.tensor([[azimuth], [elevation], [FOV]]))
    return orbit(torch.tensor([TARGET]), torch.tensor([span]), azimuths, elevations, fovs, SIZE)


def take(chromium: Any, page: Path, azimuth: float, elevation: float = 0) -> np.ndarray:
    chromium.open(page, f"{BARE}&azimuth={azimuth}&elevation={elevation}", (SIZE, SIZE))
    return chromium.screenshot().astype(float)


def at(image: np.ndarray, azimuth: float, point: tuple[float, float, float]) -> np.ndarray:
    """The colour (0 to 255) where a world point appears, the mean of 5 x 5 pixels."""
    pixels, _ = project(torch.tensor([point]), camera(azimuth, 0))
    x, y = (int(value) for value in pixels[0, 0])
    return image[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1))


YELLOW, BROWN, RED, GREEN = (255, 230, 51), (102, 51, 26), (230, 26, 26), (26, 179, 26)
BLUE, MAGENTA, BLACK = (26, 51, 230), (230, 26, 204), (13, 13, 13)
LEFT_ARM, RIGHT_ARM, FACE, TRUNK, LEGS = (0.3, 1.1, 0), (-0.3, 1.1, 0), (0, 1.57, 0.1), (0, 1.1, 0.1), (0, 0.4, 0)

SIGHTS = [
    (0, {FACE: YELLOW, LEFT_ARM: RED, RIGHT_ARM: GREEN, TRUNK: BLUE, LEGS: BLACK, (0.9, 1.1, 0): GREY}),
    (180, {FACE: BROWN, LEFT_ARM: RED, RIGHT_ARM: GREEN, TRUNK: MAGENTA, LEGS: BLACK, (0, -0.2, 0): GREY}),
    (90, {(0.36, 1.1, 0): RED, (0, 1.57, 0.09): YELLOW, (0, 1.57, -0.06): BROWN, (0.16, 0.4, 0): BLACK}),
    (-90, {(-0.36, 1.1, 0): GREEN, (0, 1.57, 0.09): YELLOW, (0, 1.57, -0.06): BROWN}),
]


@pytest.mark.parametrize(("azimuth", "sights"), SIGHTS)
def test_every_side_shows_its_own_colours_in_the_right_places(
    chromium: Any, page: Path, azimuth: float, sights: dict[tuple[float, float, float], tuple[int, int, int]]
) -> None:
    image = take(chromium, page, azimuth)
    for point, color in sights.items():
        np.testing.assert_allclose(at(image, azimuth, point), color, atol=16, err_msg=f"{point} from {azimuth}")


def test_left_and_right_up_and_down(chromium: Any, page: Path) -> None:
    image = take(chromium, page, 0)
    rows, columns = {}, {}
    for name, color in {"left arm": RED, "right arm": GREEN, "face": YELLOW, "legs": BLACK}.items():
        found = np.nonzero(np.abs(image - color).max(-1) < 24)
        assert len(found[0]) > 50, name
        rows[name], columns[name] = (axis.mean() for axis in found)
    assert columns["right arm"] < columns["face"] < columns["left arm"]  # it faces us: its left is on our right
    assert rows["face"] < rows["left arm"] < rows["legs"]


@pytest.mark.parametrize(("azimuth", "leans"), [(0, 1), (180, -1)])
def test_a_long_splat_leans_the_right_way(chromium: Any, page: Path, azimuth: float, leans: int) -> None:
    image = take(chromium, page, azimuth)
    y, x = np.nonzero((image[..., 2] - image[..., 0] > 60) & (image[..., 1] > 130))
    assert len(x) > 30
    covariance = np.cov(x, -y)
    angle = math.degrees(0.5 * math.atan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1]))
    assert angle * leans == pytest.approx(60, abs=4)


def test_images_equal_those_of_the_programs_renderer(chromium: Any, figure: Gaussians, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 5000
    cloud = Gaussians(
        means=torch.randn(count, 3, generator=generator) * torch.tensor([0.3, 0.4, 0.2]) + torch.tensor(TARGET),
        quats=torch.randn(count, 4, generator=generator),
        scales=(torch.randn(count, 3, generator=generator) * 0.7 - 4.2).exp(),
        opacities=torch.rand(count, generator=generator) ** 2 * 0.99 + 0.005,
        colors=torch.rand(count, 3, generator=generator),
    )
    background = torch.tensor([GREY]) / 255
    for name, gaussians in {"figure": figure, "cloud": cloud}.items():
        path = tmp_path / f"{name}.html"
        write_html(path, gaussians, name)
        for azimuth, elevation in ((0, 0), (35, 25), (-160, -30)):
            expected = rasterize(gaussians, camera(azimuth, elevation), background).rgb[0].numpy() * 255
            difference = np.abs(take(chromium, path, azimuth, elevation) - expected)
            where = f"{name} from {azimuth}, {elevation}"
            assert difference.mean() < 1.0, where
            assert np.quantile(difference, 0.999) < 6, where
            assert expected.std() > 15, where


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine, and the paths that were requested."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requested
    server.shutdown()
    server.server_close()


def test_nothing_is_requested_and_nothing_can_be(
    chromium: Any, page: Path, listener: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, requested = listener
    probe = (
        f"const address = '{address}';"
        + """
      for (const name of ["img", "script", "iframe"]) {
        const one = document.createElement(name); one.src = `${address}/${name}`; document.body.append(one);
      }
      window.outcome = "";
      fetch(`${address}/fetch`).then(() => { outcome = "allowed"; }, () => { outcome = "refused"; });
    """
    )
    (tmp_path / "open.html").write_text("<!DOCTYPE html><html data-state=ready>", encoding="utf-8")
    chromium.open(tmp_path / "open.html")
    chromium.evaluate(probe)
    chromium.wait("outcome && document.querySelector('iframe')")
    assert "/fetch" in requested  # the probe itself works: a page without our policy is let through
    requested.clear()

    chromium.open(page, "spin=1")
    time.sleep(0.5)
    assert [request for request in chromium.requests if not request.startswith("blob:")] == [page.resolve().as_uri()]
    assert chromium.errors == []
    chromium.evaluate(probe)
    chromium.wait("outcome")
    time.sleep(0.3)
    assert chromium.evaluate("outcome") == "refused"
    assert requested == []


def test_a_title_with_markup_is_only_text(chromium: Any, page: Path) -> None:
    chromium.open(page)
    expected = "a block figure </script><script>document.title = 'broken'</script>"
    assert chromium.evaluate("document.title") == expected
    assert chromium.evaluate("document.querySelector('h1').textContent") == expected
    assert chromium.evaluate("document.scripts.length") == 2


def test_the_canvas_follows_the_window_and_the_density_of_its_pixels(
    chromium: Any, page: Path, face_at: FaceAt
) -> None:
    for size, ratio in (((600, 400), 1), ((390, 780), 2.5), ((200, 150), 1)):
        chromium.open(page, "spin=0", size, ratio)
        found = chromium.evaluate("[canvas.width, canvas.height, document.documentElement.scrollWidth]")
        assert found == [round(size[0] * ratio), round(size[1] * ratio), size[0]]
    chromium.open(page, f"{BARE}&azimuth=0", (SIZE, SIZE))
    chromium.send(
        "Emulation.setDeviceMetricsOverride", width=2 * SIZE, height=2 * SIZE, deviceScaleFactor=1, mobile=False
    )
    chromium.wait(f"canvas.width === {2 * SIZE}")
    chromium.view()
    assert chromium.screenshot().shape == (2 * SIZE, 2 * SIZE, 3)
    column, row = face_at()
    assert column == pytest.approx(SIZE, abs=4)
    assert row < SIZE


def test_title_and_buttons_leave_the_avatar_free_and_can_be_reached(chromium: Any, page: Path) -> None:
    for size in ((390, 780), (1280, 720), (800, 360)):
        chromium.open(page, "spin=0&background=light", size)
        boxes = chromium.evaluate(
            "[...document.querySelectorAll('#tools button')].map((b) => { const r = b.getBoundingClientRect();"
            " return [r.left, r.top, r.right, r.bottom, b.textContent.trim().length]; })"
        )
        assert len(boxes) == 5
        for left, top, right, bottom, name in boxes:
            assert left >= 0
            assert right <= size[0]
            assert bottom <= size[1]
            assert min(right - left, bottom - top) >= (44 if size[0] <= 480 else 40)
            assert name > 0
        image = chromium.screenshot().astype(float)
        legs = np.nonzero(np.abs(image - BLACK).max(-1) < 12)[0]
        legs = legs[legs < boxes[0][1] - 30]
        brown = np.nonzero(np.abs(image - BROWN).max(-1) < 24)[0]
        title = chromium.evaluate("document.getElementById('title').getBoundingClientRect().bottom")
        assert brown.min() > title
        assert legs.max() < boxes[0][1] - 10


def test_a_missing_webgl2_is_reported(chromium: Any, page: Path) -> None:
    source = "HTMLCanvasElement.prototype.getContext = () => null;"
    script = chromium.send("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    try:
        chromium.open(page)
        assert chromium.evaluate("document.documentElement.dataset.state") == "error"
        assert "WebGL2" in chromium.evaluate("document.getElementById('message').innerText")
    finally:
        chromium.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_a_lost_context_is_reported_and_restored(chromium: Any, page: Path) -> None:
    chromium.open(page, "spin=0&background=light", (400, 500))
    before = chromium.screenshot()
    chromium.evaluate(
        "window.loss = canvas.getContext('webgl2').getExtension('WEBGL_lose_context'), loss.loseContext()"
    )
    chromium.wait("!document.getElementById('message').hidden")
    assert "graphics card" in chromium.evaluate("document.getElementById('message').innerText")
    chromium.evaluate("loss.restoreContext()")
    chromium.wait("document.getElementById('message').hidden && document.documentElement.dataset.state === 'ready'")
    time.sleep(0.5)
    np.testing.assert_allclose(chromium.screenshot().astype(float), before, atol=2)


def test_damaged_splats_are_reported(chromium: Any, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    start = text.index(">", text.index('id="splats"')) + 1
    (tmp_path / "cut.html").write_text(text[:start] + "AAAA" + text[text.index("</script>", start) :], encoding="utf-8")
    chromium.open(tmp_path / "cut.html")
    assert "cannot be shown" in chromium.evaluate("document.getElementById('message').innerText")


def test_a_hundred_thousand_splats(chromium: Any, tmp_path: Path) -> None:
    count = 100_000
    generator = torch.Generator().manual_seed(2)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    ball = Gaussians(
        means=direction * 0.5 + torch.tensor(TARGET),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        scales=torch.full((count, 3), 0.005),
        opacities=torch.full((count,), 0.9),
        colors=(direction + 1) / 2,
    )
    path = tmp_path / "ball.html"
    write_html(path, ball, "a ball")
    assert path.stat().st_size < 3.4e6
    image = take(chromium, path, 0)
    # Its front is blue (+z) and hides its back; its upper side is green, its left (our right) is red.
    middle = SIZE // 2
    np.testing.assert_allclose(
        image[middle - 3 : middle + 3, middle - 3 : middle + 3].mean((0, 1)), [127, 127, 255], atol=12
    )
    assert image[middle, middle + 40, 0] > image[middle, middle - 40, 0] + 60
    assert image[middle - 40, middle, 1] > image[middle + 40, middle, 1] + 60
