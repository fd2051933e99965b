"""A sweep on a real Ray cluster of two workers, one of which is killed."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile

import psutil
import pytest

from tests.cluster import tiny_sweep

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
STARTS = 5
"""Attempts: Ray gives a node 30 s to start, however busy the machine is."""


@pytest.fixture
def cluster(monkeypatch):
    """The address of a Ray cluster of two workers, which only this test and its children may use."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")  # a busy machine
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # names of sockets are short
        command = [*RAY, "start", "--head", "--num-cpus=2", "--include-dashboard=false", f"--port={port}"]
        command += [f"--temp-dir={folder}", "--object-store-memory=80000000"]
        try:
            for _ in range(STARTS):
                # Its processes have a working folder of their own: relative paths must not depend on it.
                started = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                if started.returncode == 0:
                    break
                end_processes(folder)
            assert started.returncode == 0, started.stdout + started.stderr
            yield f"127.0.0.1:{port}"
        finally:
            end_processes(folder)


def end_processes(folder: str) -> None:
    """End the processes of the cluster with this folder."""
    begun = [process for process in psutil.process_iter() if is_of(process, folder)]
    for process in begun:
        process.terminate()
    for process in psutil.wait_procs(begun, timeout=20)[1]:
        process.kill()


def is_of(process: psutil.Process, folder: str) -> bool:
    """Whether a process belongs to the cluster with this folder."""
    try:
        return any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_four_avatars_while_a_worker_is_killed(cluster, tmp_path):
    (tmp_path / "prompts.txt").write_text("a man\na woman\n")
    settings = ["cluster=ray", f"hydra.launcher.ray.init.address={cluster}", "prompt=@prompts.txt", "seed=0,1"]
    with tiny_sweep.started(tmp_path, *settings) as sweep:
        run, owner = tiny_sweep.wait_for_a_run_in_progress(tmp_path, sweep)
        os.kill(owner["pid"], signal.SIGKILL)
        code = sweep.wait()
    said = (tmp_path / "output.txt").read_text()
    assert code == 0, said
    assert tiny_sweep.faults(tmp_path, 4, interrupted=run) == [], said

    before = {name: (path / "avatar.ply").stat().st_mtime_ns for name, path in tiny_sweep.runs(tmp_path).items()}
    with tiny_sweep.started(tmp_path, *settings) as sweep:
        assert sweep.wait() == 0
    assert tiny_sweep.faults(tmp_path, 4, interrupted=run) == [], "a finished run was made again"
    after = {name: (path / "avatar.ply").stat().st_mtime_ns for name, path in tiny_sweep.runs(tmp_path).items()}
    assert after == before
