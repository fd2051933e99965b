"""Pixels of exported files in viewers that we did not write, in a headless browser: axes, colours, handedness."""

import base64
import io
import math
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import load_body
from avatar_gs.export.glb import write_splats_glb
from avatar_gs.export.mesh import write_mesh
from avatar_gs.export.ply import write_ply
from avatar_gs.export.spz import write_spz
from avatar_gs.render.cameras import orbit
from avatar_gs.render.rasterize import rasterize
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import surface_splats
from avatar_gs.stages.export import avatar_rig, avatar_skin, standing, standing_pose
from avatar_gs.types import Gaussians
from tests.viewer.conftest import Chromium, chromium

__all__ = ["chromium"]  # the fixture

PACKAGES = ("three@0.187.0", "@sparkjsdev/spark@2.2.0")
SIZE, FOV, DISTANCE, HEIGHT = 300, 40.0, 3.2, 0.85
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, which fetches three.js and Spark"),
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with the viewers, and its address on this machine."""
    folder = tmp_path_factory.mktemp("viewers")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *PACKAGES]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    shutil.copy(Path(__file__).with_name("viewers.html"), folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def shown(chromium: Chromium, site: tuple[Path, str]) -> Callable[..., np.ndarray]:
    """The image of a file in the folder, by one of the page's readers."""

    def show(reader: str, file: str, turn: int = 0) -> np.ndarray:
        chromium.send("Page.navigate", url=f"{site[1]}/viewers.html?reader={reader}&file=/{file}&turn={turn}")
        chromium.wait("document.title !== 'loading' && document.title !== ''")
        assert chromium.evaluate("document.title") == "ready"
        png = base64.b64decode(chromium.evaluate("image").partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)

    return show


def ours(gaussians: Gaussians) -> np.ndarray:
    span = 2 * DISTANCE * math.tan(math.radians(FOV / 2))
    zero, fov = torch.zeros(1), torch.tensor([math.radians(FOV)])
    camera = orbit(torch.tensor([[0.0, HEIGHT, 0.0]]), torch.tensor([span]), zero, zero, fov, SIZE)
    return (rasterize(gaussians, camera, torch.full((1, 3), 127 / 255)).rgb[0].numpy() * 255).clip(0, 255)


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Other renderers blur and cut off splats a little differently: edges differ, areas do not."""
    difference = np.abs(found - expected)
    mirrored = np.abs(found - expected[:, ::-1])
    print(f"{difference.mean():.2f} of 255 on average, 95 % below {np.quantile(difference, 0.95):.0f}")
    assert difference.mean() < 2
    assert np.quantile(difference, 0.95) < 10
    assert difference.mean() < 0.3 * mirrored.mean(), "left is left"


def test_spark_shows_the_ply_file(shown: Callable[..., np.ndarray], site: tuple[Path, str], figure: Gaussians) -> None:
    write_ply(site[0] / "avatar.ply", figure)
    agree(shown("spark", "avatar.ply", turn=180), ours(figure))


def test_spark_shows_the_spz_file(shown: Callable[..., np.ndarray], site: tuple[Path, str], figure: Gaussians) -> None:
    write_spz(site[0] / "avatar.spz", figure)
    agree(shown("spark", "avatar.spz"), ours(figure))


def test_three_shows_the_splats_of_the_gltf_file(
    shown: Callable[..., np.ndarray], site: tuple[Path, str], figure: Gaussians
) -> None:
    write_splats_glb(site[0] / "avatar.glb", figure)
    agree(shown("three", "avatar.glb"), ours(figure))


def test_three_shows_the_mesh_as_we_show_the_splats(shown: Callable[..., np.ndarray], site: tuple[Path, str]) -> None:
    body = load_body(BodyConfig(path=str(FREE_BODY)))
    model = surface_splats(SplatsConfig(count=6000), body.rest(), body.weights, torch.Generator().manual_seed(0))
    with torch.no_grad():
        means = model.params["means"]
        model.params["sh0"].copy_(torch.stack([(9 * means[:, 1]).sin(), 2 * means[:, 0], -2 * means[:, 0]], 1)[:, None])
        model.params["opacities"].fill_(3.0)
    gaussians, posed = standing(model, body)
    rig, skin = avatar_rig(model, body, posed, standing_pose(body)), avatar_skin(model, body, posed)
    write_mesh(site[0] / "mesh.glb", skin, rig, 512)
    agree(shown("mesh", "mesh.glb"), ours(gaussians.detach()))
