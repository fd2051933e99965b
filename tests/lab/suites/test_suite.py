"""The base of the suites: records survive JSON, interruptions and failures; results and reports are written."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage
from avatar_gs.lab.metrics.avatar import Strip
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.suite import Figures, FullGrid, Job, JobSuite, Record, RecordStore, restored
from tests.lab.settings import lab_settings


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Nested:
    pair: tuple[int, int]


@dataclass(frozen=True)
class Sum(Record):
    colour: Colour
    total: int
    nested: list[Nested]
    by_name: dict[str, list[Nested]]
    maybe: Nested | None
    free: dict[str, Any]


class SumSuite(JobSuite[Job[Colour, int], int, Sum]):
    """Adds the seed to a number; some numbers fail."""

    title = "Sums"
    full_grid = FullGrid(("seed=9",), "nine", lambda costs: 60.0 * costs["sums"])
    record = Sum
    item = "sum"
    numbers: tuple[int, ...] = (1, 2, 3)

    def __init__(
        self, settings: LabSettings, prior: Any, folder: Path, fails: type[BaseException] | None = None
    ) -> None:
        super().__init__(settings, prior, folder)
        self.fails, self.made = fails, []

    def plan(self) -> Iterator[Job[Colour, int]]:
        for number in self.numbers:
            yield Job(Colour.RED, number, self.settings.seed)

    def settings_of(self, job: Job[Colour, int]) -> LabSettings:
        return self.settings

    def facts(self, job: Job[Colour, int]) -> list[Any]:
        return [job.variant.value, job.subject, job.seed]

    def describe(self, job: Job[Colour, int]) -> str:
        return f"number {job.subject}"

    def make(self, job: Job[Colour, int]) -> int:
        self.made.append(job.subject)
        if self.fails is not None and job.subject == 2:
            raise self.fails("two is not to be made")
        return job.subject + job.seed

    def measure(self, job: Job[Colour, int], made: int) -> tuple[Sum, Strip]:
        pair = Nested((made, job.seed))
        record = Sum(job.variant, made, [pair], {"a": [pair]}, pair if made > 1 else None, {"x": [1, "two"]})
        return record, np.full((4, 8, 3), made, np.uint8)

    def figures(self, records: Mapping[str, Sum]) -> Figures:
        return {"total": sum(record.total for record in records.values()), "costs": {"sums": len(records)}}

    def sheet(self, records: Mapping[str, Sum]) -> RGBImage:
        return self.grid([self.store.strip(key) for key in records])

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        return [f"The total is {results['figures']['total']}.", ""]


def stored(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "sums").glob("*.json")}


@dataclass(frozen=True)
class Renamed(Record):
    former: ClassVar[Mapping[str, str]] = {"old": "value"}

    value: int


def test_records_are_read_by_former_names_of_their_fields():
    assert restored(Renamed, {"old": 3}) == restored(Renamed, {"value": 3}) == Renamed(3)
    with pytest.raises(ValueError, match="unknown fields"):
        restored(Renamed, {"older": 3})


def test_records_survive_json():
    pair = Nested((1, 2))
    for maybe in (pair, None):
        record = Sum(Colour.BLUE, 3, [pair], {"a": [pair, pair]}, maybe, {"x": [1, {"y": None}]})
        assert restored(Sum, json.loads(json.dumps(asdict(record)))) == record


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"colour": "green"}', "null"])
def test_records_that_cannot_be_read_are_missing(tmp_path, damage):
    store = RecordStore(tmp_path, Sum)
    store.save("key", Sum(Colour.RED, 1, [], {}, None, {}), np.zeros((4, 4, 3), np.uint8))
    assert store.load("key") is not None and store.load("other") is None
    (tmp_path / "key.json").write_text(damage)
    assert store.load("key") is None


def test_a_record_without_its_images_is_missing(tmp_path):
    store = RecordStore(tmp_path, Sum)
    store.save("key", Sum(Colour.RED, 1, [], {}, None, {}), np.zeros((4, 8, 3), np.uint8))
    assert len(store.strip("key")) == 2
    (tmp_path / "key.png").unlink()
    assert store.load("key") is None


@pytest.mark.parametrize("failure", [KeyboardInterrupt, UserError])
def test_what_is_made_before_a_failure_is_kept_and_not_made_again(prior, tmp_path, failure):
    suite = SumSuite(lab_settings(), prior, tmp_path, failure)
    with pytest.raises(failure):
        suite.run([])
    assert suite.made == [1, 2] and not (tmp_path / "results.json").exists()
    kept = stored(tmp_path)
    again = SumSuite(lab_settings(), prior, tmp_path)
    again.run([])
    assert again.made == [2, 3] and len(kept) == 1 and kept.items() <= stored(tmp_path).items()
    third = SumSuite(lab_settings(), prior, tmp_path)
    assert third.evaluate()[0] == again.evaluate()[0] and third.made == []


def test_more_jobs_cost_only_what_is_new(prior, tmp_path):
    SumSuite(lab_settings(), prior, tmp_path).run([])
    larger = SumSuite(lab_settings(), prior, tmp_path)
    larger.numbers = (3, 4, 1)
    figures, _ = larger.evaluate()
    assert larger.made == [4] and figures["total"] == 8
    assert [record.total for record in larger.records().values()] == [3, 4, 1], "in the order of the jobs"


def test_records_depend_on_facts_settings_and_version(prior, tmp_path):
    job = Job(Colour.RED, 1, 0)
    suite, other = SumSuite(lab_settings(), prior, tmp_path), SumSuite(lab_settings(), prior, tmp_path)
    other.version = 2  # type: ignore[misc]
    negative = SumSuite(lab_settings(negative_prompt="grey"), prior, tmp_path)
    keys = {suite.key(job), suite.key(Job(Colour.BLUE, 1, 0)), suite.key(Job(Colour.RED, 1, 1))}
    assert len(keys | {other.key(job), negative.key(job)}) == 5
    assert suite.key(job) == SumSuite(lab_settings(name="mine", threads=3), prior, tmp_path / "x").key(job)


def test_results_and_report_are_written_and_overwritten(prior, tmp_path):
    arguments = ["stage=evaluate", "seed=1", "prompt=a b"]
    report = SumSuite(lab_settings(seed=1), prior, tmp_path, None).run(arguments)
    results, text = json.loads((tmp_path / "results.json").read_text()), report.read_text()
    assert results["figures"]["total"] == 9 and results["command"] == "avatar-gs stage=evaluate seed=1 'prompt=a b'"
    assert results["full_grid"]["command"] == "avatar-gs stage=evaluate 'prompt=a b' seed=9"
    assert text.startswith("# Sums\n\n**Logic, not photo quality.**") and text.endswith("`\n") and "\n\n\n" not in text
    assert "The total is 9." in text and results["full_grid"]["note"] in text and (tmp_path / "sheet.png").exists()
    fresh = SumSuite(lab_settings(seed=1, overwrite=True), prior, tmp_path)
    fresh.run(arguments)
    assert fresh.made == [1, 2, 3]
