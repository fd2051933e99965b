"""The limits of hostile cases."""

import resource
from pathlib import Path

import pytest

from tests.robustness.hostile import MEMORY


@pytest.fixture
def little_memory():
    """Let a case reserve at most ``MEMORY``: more raises MemoryError, which is no clean result."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
