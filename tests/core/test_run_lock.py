"""One process at a time in a run's folder: the living are respected, the dead and copies are not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from avatar_gs.core import run_lock
from avatar_gs.core.errors import UserError
from avatar_gs.core.run_lock import LOCK_FILE, locked
from avatar_gs.core.runs import RunFolder

HOLD = (
    "import sys, time; from pathlib import Path; from avatar_gs.core.run_lock import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 1.0)
    monkeypatch.setattr(run_lock, "BEAT", 0.1)


def rewrite(path: Path, **changes) -> None:
    """Change what a lock file says, keeping the file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_second_process_is_refused_and_the_first_one_keeps_its_lock(holder, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on .*name=…") as error:
            locked(tmp_path).__enter__()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="in use"), RunFolder.open(tmp_path, {}, overwrite=True):
        pass


def test_a_killed_process_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    while run_lock._started(holder.pid) is not None:  # it stays as a zombie, as there is nobody who asks for its code
        time.sleep(0.01)
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_free_after_an_error_and_within_one_process_held_once(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path), pytest.raises(UserError, match="in use"):
        locked(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_a_folder_in_use_is_free(holder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / LOCK_FILE).write_bytes((tmp_path / LOCK_FILE).read_bytes())
    with locked(copy):
        pass


@pytest.mark.parametrize("change", [{"pid": 2**22 - 1}, {"started": "1"}])
def test_a_process_that_is_not_there_holds_nothing(tmp_path, change):
    with locked(tmp_path):
        rewrite(tmp_path / LOCK_FILE, **change)
        content = (tmp_path / LOCK_FILE).read_text()
        assert not run_lock._is_alive(tmp_path / LOCK_FILE, content)


@pytest.mark.usefixtures("impatient")
def test_a_process_of_another_machine_is_alive_while_it_touches_the_file(tmp_path):
    file = tmp_path / LOCK_FILE
    with locked(tmp_path):
        rewrite(file, machine="elsewhere", host="gpu7")
        with pytest.raises(UserError, match="on gpu7"):
            locked(tmp_path).__enter__()
        left = file.read_bytes()
    for content in (left, b"", b"{}", b"\xff"):
        file.write_bytes(content)
        if content == left:
            rewrite(file, inode=file.stat().st_ino)
        with locked(tmp_path):
            assert json.loads(file.read_text())["pid"] == os.getpid()


@pytest.mark.usefixtures("impatient")
def test_one_of_two_takes_over_a_dead_lock(tmp_path):
    file = tmp_path / LOCK_FILE
    for _ in range(20):
        file.write_text("")
        rewrite_all = {"host": "", "machine": run_lock._machine(), "pid": 2**22 - 1, "started": "1"}
        file.write_text(json.dumps(rewrite_all | {"inode": file.stat().st_ino}))
        start, done, taken = threading.Barrier(2), threading.Event(), []

        def take(start=start, taken=taken, done=done):
            start.wait()
            try:
                with locked(tmp_path):
                    taken.append(1)
                    done.wait(60)
            except UserError:
                pass

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        while sum(thread.is_alive() for thread in threads) > 1:
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
