"""Seconds by part; on a GPU they are read from its events, which the host does not wait for."""

import json

import pytest
import torch

from avatar_gs.training.stopwatch import Seconds, Stopwatch
from tests import accelerator as fake
from tests.accelerator import Accelerator

CUDA = torch.device("cuda")


@pytest.fixture
def clock(monkeypatch):
    """Events of a GPU: an event's time is the number of those recorded before it, and it passes when told to."""
    recorded, passed = [], set()
    monkeypatch.setattr(fake.Event, "record", lambda event, stream=None: recorded.append(event))
    monkeypatch.setattr(fake.Event, "query", lambda event: event in passed)
    monkeypatch.setattr(fake.Event, "synchronize", lambda event: passed.update(recorded))
    elapsed = lambda begin, end: 1000.0 * (recorded.index(end) - recorded.index(begin))
    monkeypatch.setattr(fake.Event, "elapsed_time", elapsed)
    with Accelerator() as accelerator:
        yield accelerator, recorded, passed


def test_gpu_times_are_added_when_their_events_have_passed(clock):
    accelerator, recorded, passed = clock
    seconds = Seconds({"render": 2.0})
    watch = Stopwatch(seconds, CUDA)
    for part in ("render", "prior", "render"):
        with watch(part):
            pass
    assert seconds == {"render": 2.0}, "nothing has passed yet"
    passed.update(recorded[:4])
    with watch("update"):
        pass
    assert seconds == {"render": 3.0, "prior": 1.0}
    assert not accelerator.waits
    seconds.settle()
    assert seconds == {"render": 4.0, "prior": 1.0, "update": 1.0}
    seconds.settle()
    assert json.loads(json.dumps(seconds)) == {"render": 4.0, "prior": 1.0, "update": 1.0}


def test_a_plain_dictionary_waits_for_the_gpu(clock):
    accelerator, recorded, _ = clock
    seconds: dict[str, float] = {}
    with Stopwatch(seconds, CUDA)("alone"):
        pass
    assert seconds["alone"] >= 0 and not recorded
    assert accelerator.waits == {"synchronize": 1}


def test_cpu_times_are_wall_clock_times():
    seconds = Seconds()
    with Stopwatch(seconds, torch.device("cpu"))("part"):
        pass
    seconds.settle()
    assert list(seconds) == ["part"] and seconds["part"] >= 0
