"""A tiny prior in a folder, and a machine without a network."""

import shutil
import socket

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(original, tmp_path / "prior")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("files of this machine must never reach for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
