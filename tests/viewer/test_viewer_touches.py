"""``avatar.html`` in a real browser: what it does when it is touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FaceAt = Callable[[], tuple[float, float]]


def mouse(chromium: Any, event: str, x: float, y: float, **more: Any) -> None:
    chromium.send("Input.dispatchMouseEvent", type=event, x=x, y=y, **more)


def drag(chromium: Any, start: tuple[int, int], end: tuple[int, int], button: str = "left", **more: Any) -> None:
    buttons = {"left": 1, "right": 2}[button]
    mouse(chromium, "mousePressed", *start, button=button, buttons=buttons, clickCount=1, **more)
    for step in (0.5, 1.0):
        x, y = (a + step * (b - a) for a, b in zip(start, end, strict=True))
        mouse(chromium, "mouseMoved", x, y, button=button, buttons=buttons, **more)
    mouse(chromium, "mouseReleased", *end, button=button, buttons=0, clickCount=1, **more)


def key(chromium: Any, name: str, **more: Any) -> None:
    text = {"text": name} if len(name) == 1 else {}
    chromium.send("Input.dispatchKeyEvent", type="keyDown", key=name, **text, **more)
    chromium.send("Input.dispatchKeyEvent", type="keyUp", key=name, **more)


def test_mouse_turns_moves_and_zooms(chromium: Any, page: Path, face_at: FaceAt) -> None:
    chromium.open(page, "spin=0&elevation=0", (600, 600))
    azimuth, elevation, distance = chromium.view()
    assert (azimuth, elevation) == (0, 0)
    drag(chromium, (300, 300), (400, 300))
    turned, level, _ = chromium.view()
    assert turned < -20  # the near side follows the mouse to the right, so the camera goes to the left
    assert level == 0
    drag(chromium, (300, 300), (300, 400))
    assert chromium.view()[1] > 20
    drag(chromium, (300, 100), (300, 590))
    drag(chromium, (300, 100), (300, 590))
    assert chromium.view()[1] == 89  # never over the top
    key(chromium, "r")
    assert chromium.view() == (0, 0, distance)
    mouse(chromium, "mouseWheel", 300, 300, deltaX=0, deltaY=-120)
    assert chromium.view()[2] < 0.9 * distance
    key(chromium, "r")
    chromium.view()
    before = face_at()
    drag(chromium, (300, 300), (360, 330), button="right")
    chromium.view()
    after = face_at()
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((60, 30), abs=6)


def test_fingers_turn_pinch_and_move(chromium: Any, page: Path) -> None:
    chromium.open(page, "spin=1&elevation=0", (390, 700))
    chromium.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)

    def touch(event: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        chromium.send("Input.dispatchTouchEvent", type=event, touchPoints=fingers)

    try:
        touch("touchStart", (200, 300))
        touch("touchMove", (240, 300))
        touch("touchMove", (280, 300))
        touch("touchEnd")
        assert chromium.evaluate("spin.getAttribute('aria-pressed')") == "false"
        azimuth, _, distance = chromium.view()
        touch("touchStart", (150, 300), (250, 300))
        touch("touchMove", (100, 300), (300, 300))
        touch("touchEnd")
        still, level, nearer = chromium.view()
        assert still == azimuth
        assert level == 0
        assert nearer == pytest.approx(distance / 2, rel=0.02)
    finally:
        chromium.send("Emulation.setTouchEmulationEnabled", enabled=False)


def test_keys_turn_zoom_and_spin(chromium: Any, page: Path, face_at: FaceAt) -> None:
    chromium.open(page, "spin=0&elevation=0", (600, 600))
    _, _, distance = chromium.view()
    key(chromium, "ArrowLeft")
    key(chromium, "ArrowDown")
    key(chromium, "+")
    assert chromium.view() == pytest.approx((10, 10, distance / 1.15), abs=0.01)
    key(chromium, "r")
    chromium.view()
    before = face_at()
    key(chromium, "ArrowRight", modifiers=8)
    chromium.view()
    assert face_at()[0] - before[0] == pytest.approx(24, abs=4)
    key(chromium, " ")
    chromium.wait("parseFloat(document.documentElement.dataset.view) > 2")
    key(chromium, " ")
    chromium.view()
    key(chromium, "?")
    assert chromium.evaluate("document.getElementById('keys').open")


def test_it_spins_until_it_is_touched_and_not_at_all_where_motion_is_unwelcome(chromium: Any, page: Path) -> None:
    spinning = "spin.getAttribute('aria-pressed')"
    chromium.open(page, size=(600, 600))
    chromium.wait("parseFloat(document.documentElement.dataset.view) > 3")
    assert chromium.evaluate(spinning) == "true"
    drag(chromium, (300, 300), (310, 300))
    assert chromium.evaluate(spinning) == "false"
    chromium.view()
    features = [
        {"name": "prefers-reduced-motion", "value": "reduce"},
        {"name": "prefers-color-scheme", "value": "dark"},
    ]
    chromium.send("Emulation.setEmulatedMedia", features=features)
    try:
        chromium.open(page, size=(600, 600))
        assert chromium.evaluate(spinning) == "false"
        assert chromium.view()[0] == 0
        assert chromium.evaluate("document.documentElement.dataset.background") == "dark"
    finally:
        chromium.send("Emulation.setEmulatedMedia", features=[])


def test_the_background_can_be_changed(chromium: Any, page: Path) -> None:
    chromium.open(page, "spin=0&background=light", (600, 600))
    light = chromium.screenshot()[300, 30].mean()
    chromium.evaluate("document.getElementById('background').click()")
    dark = chromium.screenshot()[300, 30].mean()
    assert light > 180
    assert dark < 80
    key(chromium, "b")
    assert chromium.screenshot()[300, 30].mean() == light
