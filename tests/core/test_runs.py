"""The folder of a run: its log."""

import logging

from avatar_gs.core import runs
from avatar_gs.core.runs import EARLIER_LOG, LOG_BYTES, LOG_FILE, RunFolder


def test_the_log_of_a_long_run_keeps_its_end_and_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LOG_BYTES", 2000)
    logger = logging.getLogger("avatar_gs")
    logger.setLevel(logging.INFO)
    with RunFolder.open(tmp_path, {}):
        for number in range(200):
            logger.info("optimize %d/200", number)
    log, earlier = (tmp_path / LOG_FILE).read_text(), (tmp_path / EARLIER_LOG).read_text()
    assert "optimize 199/200" in log and len(log) <= 2000 and len(earlier) <= 2000
    assert len(list(tmp_path.glob("log*"))) == 2
    first = int(log.split("optimize ")[1].split("/")[0])
    assert f"optimize {first - 1}/200" in earlier, "no line is lost between the two"
    with RunFolder.open(tmp_path, {}, overwrite=True):
        assert not (tmp_path / EARLIER_LOG).exists()


def test_a_log_is_large_enough_for_a_day():
    a_line, lines_a_day = len("2026-01-01 00:00:00,000 INFO optimize  1000/3600  1:00:00 left  splats 100000"), 24 * 360
    assert a_line * lines_a_day < LOG_BYTES
