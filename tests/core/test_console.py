"""Log lines and progress in a pipe and on a terminal."""

import logging

import pytest
from rich.console import Console

from avatar_gs.core import console


@pytest.fixture
def lines():
    """The log's lines."""
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append((record.getMessage(), getattr(record, "only_file", False)))
    console.LOGGER.addHandler(handler)
    level = console.LOGGER.level
    console.LOGGER.setLevel(logging.INFO)  # a plain attribute would leave what the logger remembers of earlier levels
    yield seen
    console.LOGGER.setLevel(level)
    console.LOGGER.removeHandler(handler)


def test_a_pipe_gets_the_first_and_the_last_line_at_once(lines):
    with console.progress("optimise", 100) as bar:
        for step in range(100):
            bar.update(step + 1, loss=1 / 3, splats=8000)
    texts = [text for text, _ in lines]
    assert len(texts) == 2
    assert texts[0] == "optimise  1/100  loss 0.3333  splats 8000"
    assert texts[1] == "optimise  100/100  0:00 left  loss 0.3333  splats 8000"


def test_a_pipe_gets_a_line_every_few_seconds(lines, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("optimise", 100, start=40) as bar:
        for step in range(40, 70):
            now[0] += 1.0
            bar.update(step + 1)
    assert [text for text, _ in lines] == [
        "optimise  41/100",
        "optimise  51/100  0:49 left",
        "optimise  61/100  0:39 left",
    ]


def test_a_stage_of_unknown_length_is_announced(lines):
    with console.progress("load the prior"):
        pass
    assert lines == [("load the prior …", False)]


def test_a_terminal_gets_a_bar_and_the_file_the_lines(lines, monkeypatch, capsys):
    monkeypatch.setattr(console, "_console", Console(stderr=True, force_terminal=True, width=120))
    with console.progress("optimise", 10) as bar:
        bar.update(10, splats=8000)
    assert all(only_file for _, only_file in lines)
    text = capsys.readouterr().err
    assert "optimise" in text
    assert "10/10" in text
    assert "splats 8000" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (59.6, "1:00"), (61.0, "1:01"), (3661.0, "1:01:01")])
def test_durations(seconds, text):
    assert console.format_duration(seconds) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_values_are_computed_only_when_shown(lines, monkeypatch, terminal):
    """Values that synchronise a GPU are read a few times a second on a terminal, and once per line elsewhere."""
    now, asked = [1000.0], []
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "_console", Console(force_terminal=terminal, width=120))
    with console.progress("optimise", 1000) as bar:
        for step in range(100):
            now[0] += console.SECONDS_BETWEEN_VALUES / 4
            bar.update(step + 1, loss=lambda step=step: float(asked.append(step) or step))
    if terminal:
        assert asked == list(range(0, 100, 4))
    else:
        assert asked == [0]
        assert lines[0][0].endswith("loss 0")
