"""Atomic files, saved states, run folders and Ctrl-C."""

import json
import logging
import os
import signal
import subprocess
import sys

import pytest
import torch

from avatar_gs.core.console import interruptible
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write, load_state, save_state, write_text
from avatar_gs.core.runs import RunFolder


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new, but cut")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_makes_folders_and_keeps_the_suffix(tmp_path):
    with atomic_write(tmp_path / "deep" / "er" / "a.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path / "deep" / "er"
        temporary.write_bytes(b"1")
    assert (tmp_path / "deep" / "er" / "a.png").read_bytes() == b"1"


def test_states_come_back_bit_by_bit(tmp_path):
    tensors = {
        "floats": torch.randn(5, 3),
        "turned": torch.randn(4, 6).T,
        "ids": torch.arange(3),
        "none": torch.empty(0, 2),
        "scalar": torch.tensor(1.5),
    }
    state = {"step": 3, "name": "größer", "list": [1, None, 2.5]}
    save_state(tmp_path / "state.safetensors", tensors, state)
    loaded, loaded_state = load_state(tmp_path / "state.safetensors")
    assert loaded_state == state
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_state(tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(2)}, {"step": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "foreign", "missing"])
def test_damaged_states_are_named(tmp_path, damage):
    import safetensors.torch

    path = tmp_path / "state.safetensors"
    save_state(path, {"x": torch.ones(1000)})
    content = {"cut": path.read_bytes()[:-10], "garbage": b"x" * 100, "empty": b""}.get(damage)
    if content is not None:
        path.write_bytes(content)
    elif damage == "foreign":
        safetensors.torch.save_file({"x": torch.ones(3)}, path)
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"state\.safetensors") as error:
        load_state(path)
    assert "\n" not in str(error.value)


def test_a_run_keeps_config_log_and_metrics(tmp_path):
    logger = logging.getLogger("avatar_gs.tests")
    logging.getLogger("avatar_gs").setLevel(logging.INFO)
    with RunFolder.open(tmp_path / "run", {"prompt": "größer"}) as run:
        logger.info("step %d", 1)
        assert not run.finished("optimize")
        run.record("optimize", finished=False, splats=1)
        assert not run.finished("optimize")
        run.record("optimize", splats=3)
        run.record("export", files=["a"])
    logger.info("not in the log")
    with RunFolder.open(tmp_path / "run", {"prompt": "another"}) as run:
        logger.info("step 2")
        assert run.finished("optimize")
        assert run.metrics()["optimize"] == {"finished": True, "splats": 3}
    assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == "prompt: größer\n"
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == ["step 1", "step 2"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["schema"] == 1


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    for folder in ("run", "run/checkpoints", "run/previews"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".last.123.partial.safetensors").touch()
        (tmp_path / folder / "kept").touch()
    with RunFolder.open(tmp_path / "run", {}):
        assert not list(tmp_path.rglob("*.partial*"))
        assert len(list(tmp_path.rglob("kept"))) == 3


def test_the_log_takes_any_text(tmp_path):
    logging.getLogger("avatar_gs").setLevel(logging.INFO)
    with RunFolder.open(tmp_path / "run", {}):
        logging.getLogger("avatar_gs").info("bad\udcff")
    assert "bad\\udcff" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


def test_the_log_records_why_a_run_failed(tmp_path):
    with pytest.raises(UserError), RunFolder.open(tmp_path / "run", {}):
        raise UserError("no more")
    assert "UserError: no more" in (tmp_path / "run" / "log.txt").read_text()


def test_overwriting_removes_the_run_but_no_files_of_the_user(tmp_path):
    with RunFolder.open(tmp_path / "run", {"seed": 1}) as run:
        run.record("optimize")
        save_state(run.checkpoints / "last.safetensors", {"x": torch.ones(1)})
    (tmp_path / "run" / "my notes.txt").write_text("mine")
    with RunFolder.open(tmp_path / "run", {"seed": 2}, overwrite=True) as run:
        assert not run.finished("optimize")
        assert not run.checkpoints.exists()
        assert (run / "config.yaml").read_text() == "seed: 2\n"
    assert (tmp_path / "run" / "my notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "outputs").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="outputs"), RunFolder.open(tmp_path / "outputs" / "run", {}):
        pass


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 99, "stages": {}}'])
def test_damaged_metrics_are_named(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        RunFolder(tmp_path).metrics()


def test_the_first_ctrl_c_requests_a_stop_and_the_second_stops():
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command_reads_run_folders_without_torch():
    code = "import sys, avatar_gs.core.device, avatar_gs.core.runs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
