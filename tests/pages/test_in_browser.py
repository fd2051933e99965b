"""The pages in a real browser: at desktop and phone sizes, without JavaScript, and on paper."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_gs.types import Gaussians
from tests.pages.conftest import MakeRun

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    yield chromium
    chromium.send("Emulation.setScriptExecutionDisabled", value=False)
    chromium.send("Emulation.setEmulatedMedia", media="", features=[])


def visit(browser: Any, path: Path, size: tuple[int, int] = (1280, 800), options: str = "") -> None:
    width, height = size
    browser.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 480
    )
    browser.send("Page.navigate", url="about:blank")
    browser.requests.clear()
    browser.errors.clear()
    browser.send("Page.navigate", url=path.resolve().as_uri() + options)
    browser.wait("location.protocol === 'file:' && document.readyState === 'complete'")


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_page_of_a_run_fits_and_shows_the_avatar(
    browser: Any, make_run: MakeRun, figure: Gaussians, size: tuple[int, int]
) -> None:
    folder = make_run("people/anna", prompt="a" * 300 + " رجل \u202e </b>", splats=figure)
    visit(browser, folder / "index.html", size)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    frame = browser.evaluate("(({left, top, right, bottom}) => [left, top, right, bottom])"
                             "(document.querySelector('iframe').getBoundingClientRect())")  # fmt: skip
    left, top, right, bottom = (round(value) for value in frame)
    assert right <= size[0] and bottom - top > 0.5 * size[1]

    def seen() -> bool:
        inside = browser.screenshot()[top : min(bottom, size[1]), left:right].astype(float)
        return bool((np.abs(inside - (255, 230, 51)).max(-1) < 30).sum() > 20)  # the figure's yellow face

    for _ in range(3000):
        if seen():
            break
        browser.evaluate("0")
    else:
        pytest.fail(f"the avatar is not seen; errors: {browser.errors}")
    assert browser.errors == []
    assert {request.partition(":")[0] for request in browser.requests} <= {"file", "blob", "data"}
    assert any(request.endswith("avatar.html#title=0") or "avatar.html" in request for request in browser.requests)
    folded = browser.evaluate("document.querySelector('details pre').checkVisibility()")
    browser.evaluate("document.querySelector('details summary').click()")
    assert not folded and browser.evaluate("document.querySelector('details pre').checkVisibility()")


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_gallery_filters_by_words(browser: Any, make_run: MakeRun, outputs: Path, size: tuple[int, int]) -> None:
    make_run("anna", prompt="a woman in a RED shirt", seed=3)
    make_run("ben", prompt="a man in a red hat")
    for seed in (0, 1):
        make_run(f"blue/seed={seed}", prompt="a man in blue", seed=seed)
    visit(browser, outputs / "index.html", size)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    browser.wait("[...document.images].slice(0, 2).every((image) => image.complete && image.naturalWidth > 0)")
    shown = "document.querySelectorAll('section:not([hidden]) [data-words]:not(.left-out)').length"
    write = "(text) => { words.value = text; words.dispatchEvent(new Event('input')); }"
    for text, count, said in (
        ("red", 2, "2 of 4 avatars"),
        ("Red shirt", 1, "1 of 4 avatars"),
        ("seed 3", 1, "1 of 4 avatars"),
        ("seed=1 man", 1, "1 of 4 avatars"),
        ("blue", 2, "2 of 4 avatars"),
        ("purple", 0, "0 of 4 avatars"),
        (" ", 4, "4 avatars"),
    ):
        browser.evaluate(f"({write})({text!r})")
        assert (browser.evaluate(shown), browser.evaluate("count.textContent")) == (count, said), text
        assert browser.evaluate("nothing.checkVisibility()") == (count == 0)
    browser.evaluate(f"({write})('red hat')")
    assert browser.evaluate("location.hash") == "#red%20hat"
    visit(browser, outputs / "index.html", size, "#red%20hat")
    assert browser.evaluate(shown) == 1
    visible = "[...document.querySelectorAll('[data-words]')].filter((one) => one.checkVisibility()).length"
    assert browser.evaluate(visible) == 1
    assert browser.errors == []


def test_they_are_read_without_javascript(browser: Any, make_run: MakeRun, outputs: Path, figure: Gaussians) -> None:
    folder = make_run("anna", prompt="a woman in red", splats=figure)
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    visit(browser, outputs / "index.html")
    assert not browser.evaluate("document.getElementById('filter').checkVisibility()")
    assert "a woman in red" in browser.evaluate("document.body.innerText")
    visit(browser, folder / "index.html")
    assert not browser.evaluate("document.querySelector('iframe').checkVisibility()")
    assert browser.evaluate("document.querySelector('.still').checkVisibility()")
    assert "prompt=a woman in red" in browser.evaluate("document.body.innerText")


def test_they_print(browser: Any, make_run: MakeRun, outputs: Path, figure: Gaussians) -> None:
    folder = make_run("anna", splats=figure)
    for page in (folder / "index.html", outputs / "index.html"):
        visit(browser, page)
        printed = base64.b64decode(browser.send("Page.printToPDF", printBackground=True)["data"])
        assert printed.startswith(b"%PDF") and len(printed) > 5000
        browser.send("Emulation.setEmulatedMedia", media="print")
        assert not browser.evaluate(
            "[...document.querySelectorAll('iframe, input')].some((one) => one.checkVisibility())"
        )
        browser.send("Emulation.setEmulatedMedia", media="")
