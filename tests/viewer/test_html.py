"""The page as text: its container of splats, its safety, its sources."""

import base64
import hashlib
import inspect
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avatar_gs.render.cpu.blending import ALPHA_MAX
from avatar_gs.render.cpu.projection import ALPHA_CUT, BLUR, WINDOW
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import MAGIC, pack, write_html


def splats(count: int = 300) -> Gaussians:
    generator = torch.Generator().manual_seed(1)
    return Gaussians(
        means=torch.randn(count, 3, generator=generator),
        quats=torch.randn(count, 4, generator=generator) * 3,
        scales=(torch.randn(count, 3, generator=generator) - 4).exp(),
        opacities=torch.rand(count, generator=generator),
        colors=torch.rand(count, 3, generator=generator),
    )


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    assert data[:4] == MAGIC
    start = 8 + int.from_bytes(data[4:8], "little")
    assert start % 4 == 0
    header = json.loads(data[8:start])
    values = {}
    for section in header["sections"]:
        dtype, components = np.dtype(section["type"]).newbyteorder("<"), section["components"]
        assert section["offset"] % 4 == 0
        stored = np.frombuffer(data, dtype, header["count"] * components, start + section["offset"])
        low, high = np.array(section["low"]), np.array(section["high"])
        values[section["name"]] = low + (high - low) * stored.reshape(-1, components) / np.iinfo(dtype).max
    return header, values


def test_container_keeps_every_splat_to_its_stated_precision() -> None:
    gaussians = splats()
    header, values = unpack(pack(gaussians))
    assert header["count"] == len(gaussians)
    size = np.ptp(gaussians.means.numpy(), axis=0)
    assert (np.abs(values["means"] - gaussians.means.numpy()) <= size / 65535).all()
    scale_range = np.ptp(gaussians.scales.log().numpy(), axis=0)
    assert (np.abs(values["log_scales"] - gaussians.scales.log().numpy()) <= scale_range / 65535 + 1e-6).all()
    unit = torch.nn.functional.normalize(gaussians.quats, dim=-1).numpy()
    assert np.abs(values["quats"] - unit).max() < 2e-5
    assert np.abs(values["colors"][:, :3] - gaussians.colors.numpy()).max() <= 0.51 / 255
    assert np.abs(values["colors"][:, 3] - gaussians.opacities.numpy()).max() <= 0.51 / 255


def test_one_splat_and_equal_values_are_no_special_case() -> None:
    one = splats(1)
    _, values = unpack(pack(one))
    np.testing.assert_allclose(values["means"], one.means.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.exp(values["log_scales"]), one.scales.numpy(), rtol=1e-5)


def test_a_floater_does_not_widen_the_first_view() -> None:
    gaussians = splats(3000)
    gaussians.means[7] = 1000.0
    header, _ = unpack(pack(gaussians))
    assert np.abs(header["bounds"]).max() < 6


class Page(HTMLParser):
    """Counts what a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._element = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._element = f"{tag} {dict(attrs).get('type', '')}".strip()

    def handle_endtag(self, tag: str) -> None:
        self._element = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._element] = self.texts.get(self._element, "") + data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


NASTY = [
    "</script><script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    '" autofocus onfocus="alert(1)',
    "{{script}} {{splats}} \\1 \\g<0>",
    "<!-- --> & &amp; ' \u202e\u0000 日本語 🧍\u200d♀️",
    "bytes that are no text: \udcff",
]


@pytest.mark.parametrize("title", NASTY)
def test_any_title_stays_text(tmp_path: Path, title: str) -> None:
    gaussians = splats(2)
    write_html(tmp_path / "plain.html", gaussians, "plain")
    write_html(tmp_path / "nasty.html", gaussians, title)
    plain, nasty = (Page((tmp_path / name).read_text(encoding="utf-8")) for name in ("plain.html", "nasty.html"))
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in nasty.tags] == [sorted(attributes) for _, attributes in plain.tags]
    readable = title.replace("\udcff", "?")
    assert nasty.texts["title"] == nasty.texts["h1"] == " ".join(readable.split())
    assert nasty.texts["script module"] == plain.texts["script module"]


def test_the_policy_allows_exactly_what_the_page_holds(tmp_path: Path) -> None:
    write_html(tmp_path / "a.html", splats(2), "a")
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None

    def hashed(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{hashed(page.texts['script module'])}'" in policy
    assert f"style-src 'sha256-{hashed(page.texts['style'])}'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_names_no_other_file(tmp_path: Path) -> None:
    write_html(tmp_path / "a.html", splats(2), "a")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not [attributes for _, attributes in page.tags if {"src", "href", "action", "data"} & set(attributes)]
    without_splats = text.replace(page.texts["script application/octet-stream"], "")
    assert not re.search(r"https?://|url\(|@import|//cdn|fetch\(|XMLHttpRequest|import\(", without_splats)
    assert len(without_splats) < 100_000


def test_same_splats_give_the_same_page(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_html(tmp_path / name, splats(), "a man")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_shaders_constants_are_the_renderers() -> None:
    source = (files("avatar_gs.viewer") / "web" / "shaders.js").read_text(encoding="utf-8")
    values = {name: value.split("/") for name, value in re.findall(r"const float (\w+) = ([\d./ ]+);", source)}
    found = {name: float(value[0]) / float((*value, 1)[1]) for name, value in values.items()}
    near = inspect.signature(rasterize).parameters["near"].default
    expected = {"NEAR": near, "BLUR": BLUR, "WINDOW": WINDOW, "ALPHA_CUT": ALPHA_CUT, "ALPHA_MAX": ALPHA_MAX}
    assert found == expected
