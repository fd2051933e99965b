"""The base of all suites: jobs, records that survive an interruption, figures, a sheet of images and a report.

A suite plans jobs, makes something for each (usually an avatar), measures it, and reports the records of all jobs:

    plan() -> jobs -> make(job) -> measure(job, made) -> record -> figures(records), sheet(records) -> report(results)

Every record is stored under a hash of all that its result depends on. The same command therefore resumes where it was
interrupted, and more prompts, seeds or methods cost only what is new.
"""

import hashlib
import json
import logging
import math
import shlex
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from avatar_gs.body.model import Body
from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage, contact_sheet, write_png
from avatar_gs.core.io import write_json, write_text
from avatar_gs.lab.metrics.avatar import Strip, ViewImages, render_views
from avatar_gs.lab.metrics.truth import Case, Truth, render_truth
from avatar_gs.lab.metrics.views import Viewpoints, neutral_body, standard_viewpoints
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.report import LABEL, full_grid_line, head, joined, machine
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts

LOGGER = logging.getLogger(__name__)
SCHEMA = 1
"""Version of ``results.json``."""
RESULT_SETTINGS = ("negative_prompt", "prior", "guidance", "cameras", "splats", "density", "optimize")
"""The settings that an avatar depends on, in addition to prompt and seed."""

Figures = dict[str, Any]
K = TypeVar("K")
S = TypeVar("S")


@dataclass(frozen=True)
class Job(Generic[K, S]):
    """One record to make.

    Args:
        variant: how, or by what, it is made: a method, a row of an ablation, a control.
        subject: of whom: a prompt's case, a person, an edit.
        seed: of the run.
    """

    variant: K
    subject: S
    seed: int


@dataclass(frozen=True)
class Record:
    """Base of what a suite stores of a job: a frozen dataclass of numbers, strings, lists, dictionaries, enums and such
    dataclasses. ``asdict`` makes JSON values of it, ``restored`` reads them."""

    former: ClassVar[Mapping[str, str]] = {}
    """Names of fields in records of before, and their names now."""


def restored(of: Any, plain: Any) -> Any:
    """A value of the type ``of`` from what JSON keeps of it; dataclasses, enums and tuples are built again.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: ``plain`` is not such a value.
    """
    if plain is None or of is Any:
        return plain
    origin, arguments = get_origin(of), get_args(of)
    if origin in (Union, UnionType):
        return restored(next(one for one in arguments if one is not type(None)), plain)
    if is_dataclass(of):
        hints, former = get_type_hints(of), getattr(of, "former", {})
        plain = {former.get(name, name): value for name, value in plain.items()}
        if unknown := set(plain) - {entry.name for entry in fields(of)}:
            raise ValueError(f"{of}: unknown fields {unknown}")
        return of(**{name: restored(hints[name], value) for name, value in plain.items()})  # type: ignore[operator]
    if origin is list:
        return [restored(arguments[0], value) for value in plain]
    if origin is tuple:
        return tuple(restored(one, value) for one, value in zip(arguments, plain, strict=True))
    if origin is dict:
        return {name: restored(arguments[1], value) for name, value in plain.items()}
    return of(plain) if isinstance(of, type) and issubclass(of, Enum) else plain


J = TypeVar("J", bound=Job[Any, Any])
M = TypeVar("M")
R = TypeVar("R", bound=Record)


class RecordStore(Generic[R]):
    """Records by key in a folder: a JSON file and a strip of images for each. One that cannot be read counts as
    missing."""

    def __init__(self, path: Path, record: type[R]) -> None:
        self.path, self._record = path, record

    def load(self, key: str) -> R | None:
        if not self._strip(key).exists():
            return None
        try:
            return restored(self._record, json.loads(self._file(key).read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def save(self, key: str, record: R, strip: Strip) -> None:
        write_png(self._strip(key), strip)
        write_json(self._file(key), asdict(record))

    def strip(self, key: str) -> list[UInt8[np.ndarray, "S S 3"]]:
        """The square images of a record's strip."""
        with Image.open(self._strip(key)) as image:
            pixels = np.asarray(image.convert("RGB"))
        return np.split(pixels, pixels.shape[1] // pixels.shape[0], axis=1)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.json"

    def _strip(self, key: str) -> Path:
        return self.path / f"{key}.png"


@dataclass(frozen=True)
class FullGrid:
    """The size at which a suite's figures are reliable.

    Args:
        overrides: of the command.
        size: in words.
        seconds: its duration from the ``costs`` of a smaller run.
    """

    overrides: tuple[str, ...]
    size: str
    seconds: Callable[[dict[str, Any]], float]

    def plain(self, costs: dict[str, Any], arguments: Sequence[str]) -> dict[str, str]:
        replaced = {override.split("=")[0] for override in self.overrides}
        others = [argument for argument in arguments if argument.split("=")[0] not in replaced]
        return {
            "command": shlex.join(["avatar-gs", *others, *self.overrides]),
            "note": f"{self.size}, about {format_duration(self.seconds(costs))} at this speed",
        }


class Suite(ABC):
    """What ``stage=evaluate`` runs. A subclass gives the figures, a sheet of images, and the report's sections.

    Args:
        settings: the command's.
        prior: is not changed.
        folder: results and records, ``outputs/<name>/evaluate/<suite>/``.
    """

    title: ClassVar[str]
    """Heading of the report."""
    unseen: ClassVar[str] = "prompts"
    """What the prior's training never saw, for the report."""
    full_grid: ClassVar[FullGrid | None] = None

    def __init__(self, settings: LabSettings, prior: StableDiffusionPrior, folder: Path) -> None:
        self.settings, self.prior, self.folder = settings, prior, folder

    @abstractmethod
    def evaluate(self) -> tuple[Figures, RGBImage]:
        """The figures, as ``results.json`` holds them, and the sheet of images.

        Raises:
            UserError: the settings do not fit the suite, or a run diverges.
            KeyboardInterrupt: after Ctrl-C; all finished records are kept.
        """

    @classmethod
    @abstractmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        """The report's sections below its head, as Markdown."""

    @classmethod
    def report(cls, results: dict[str, Any]) -> str:
        """The report as Markdown, from the content of ``results.json``."""
        full = [full_grid_line(results["full_grid"])] if cls.full_grid else []
        return joined([head(results, cls.title, cls.unseen), *cls.sections(results), *full])

    def run(self, arguments: Sequence[str]) -> Path:
        """Write ``results.json``, ``sheet.png`` and ``results.md``; return the path of the last.

        Args:
            arguments: the command's, for the report: how to reproduce the figures, and the full grid.
        """
        if self.settings.overwrite and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        figures, image = self.evaluate()
        results: dict[str, Any] = {
            "schema": SCHEMA,
            "suite": self.settings.lab.suite.name,
            "label": LABEL,
            "command": shlex.join(["avatar-gs", *arguments]),
            "seed": self.settings.seed,
            "machine": machine(self.prior.device),
            "prior": {"name": self.prior.name, "fingerprint": prior_fingerprint(self.prior)},
            "settings": self.settings.plain(),
            "figures": figures,
        }
        if self.full_grid is not None:
            results["full_grid"] = self.full_grid.plain(figures["costs"], arguments)
        write_json(self.folder / "results.json", results)
        write_png(self.folder / "sheet.png", image)
        write_text(self.folder / "results.md", self.report(results))
        return self.folder / "results.md"

    def grid(
        self,
        rows: Sequence[Sequence[RGBImage | None]],
        row_labels: Sequence[str] = (),
        column_labels: Sequence[str] = (),
        size: int = 128,
    ) -> RGBImage:
        """A labelled grid of images under the suite's title (``core.images.contact_sheet``)."""
        title = f"suite={self.settings.lab.suite.name}, seed {self.settings.seed}: {LABEL}"
        return contact_sheet(rows, row_labels=row_labels, column_labels=column_labels, title=title, size=size)


class JobSuite(Suite, Generic[J, M, R]):
    """A suite of jobs, each with a record. ``M`` is what ``make`` returns."""

    record: ClassVar[type[Record]]
    version: ClassVar[int] = 1
    """Bump when records of the same job would read differently, to invalidate stored ones."""
    item: ClassVar[str] = "avatar"
    """What a job makes, in the log; records are in ``<folder>/<item>s``."""
    result_settings: ClassVar[tuple[str, ...]] = RESULT_SETTINGS

    @abstractmethod
    def plan(self) -> Iterable[J]:
        """All jobs, in the order in which they are made and reported."""

    @abstractmethod
    def settings_of(self, job: J) -> LabSettings:
        """The command's settings as the job changes them."""

    @abstractmethod
    def facts(self, job: J) -> list[Any]:
        """What the job's record depends on in addition to ``result_settings``: JSON values."""

    @abstractmethod
    def make(self, job: J) -> M:
        """Make what is to be measured."""

    @abstractmethod
    def measure(self, job: J, made: M) -> tuple[R, Strip]:
        """The job's record, and images of what was made."""

    @abstractmethod
    def figures(self, records: Mapping[str, R]) -> Figures:
        """The figures of the records, which come in the order of the jobs."""

    @abstractmethod
    def sheet(self, records: Mapping[str, R]) -> RGBImage:
        """The sheet of images."""

    @abstractmethod
    def describe(self, job: J) -> str:
        """One line for the log."""

    def cost(self, job: J) -> float:
        """Duration of the job, in any unit: for the time that is left."""
        return 1.0

    def key(self, job: J) -> str:
        """Sixteen hexadecimal digits of all that the job's record depends on."""
        plain = self.settings_of(job).plain()
        return digest([self.version, *self.facts(job), {name: plain[name] for name in self.result_settings}])

    @cached_property
    def fingerprint(self) -> str:
        """Of the prior's weights."""
        return prior_fingerprint(self.prior)

    @cached_property
    def store(self) -> RecordStore[R]:
        return RecordStore(self.folder / f"{self.item}s", self.record)  # type: ignore[arg-type]

    def evaluate(self) -> tuple[Figures, RGBImage]:
        records = self.records()
        return self.figures(records), self.sheet(records)

    def records(self) -> dict[str, R]:
        """All records by key, in the order of their jobs."""
        return self.complete(self.plan())

    def complete(self, jobs: Iterable[J]) -> dict[str, R]:
        """The record of every job by its key, in the jobs' order; stored ones are not made again.

        A job that fails ends the run; the records of the jobs before it are stored.
        """
        keys = {self.key(job): job for job in jobs}
        records = {key: record for key in keys if (record := self.store.load(key)) is not None}
        missing = [key for key in keys if key not in records]
        if records:
            LOGGER.info("%d of %d %ss are already stored", len(records), len(keys), self.item)
        began = time.monotonic()
        costs = [self.cost(keys[key]) for key in missing]
        for done, key in enumerate(missing):
            spent, left = math.fsum(costs[:done]), math.fsum(costs[done:])
            remaining = f" ({format_duration((time.monotonic() - began) / spent * left)} left)" if spent else ""
            LOGGER.info(
                "%s %d of %d%s: %s", self.item, len(records) + 1, len(keys), remaining, self.describe(keys[key])
            )
            record, strip = self.measure(keys[key], self.make(keys[key]))
            self.store.save(key, record, strip)
            records[key] = record
        return {key: records[key] for key in keys}


def digest(facts: Sequence[Any]) -> str:
    """Sixteen hexadecimal digits of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Made:
    """An optimised avatar.

    Args:
        model: the avatar.
        metrics: ``training.loop.metrics``.
        seconds: wall time of the optimisation.
    """

    model: GaussianModel
    metrics: dict[str, Any]
    seconds: float


class AvatarSuite(JobSuite[J, M, R]):
    """A suite of avatars on the neutral body, each compared with the truth of its case."""

    @cached_property
    def body(self) -> Body:
        return neutral_body(self.prior.device)

    @cached_property
    def viewpoints(self) -> Viewpoints:
        """The measured views."""
        return standard_viewpoints()

    def truth(self, case: Case) -> Truth:
        """The case's person, rendered once."""
        if case.prompt not in self._truths:
            self._truths[case.prompt] = render_truth(case, self.viewpoints)
        return self._truths[case.prompt]

    @cached_property
    def _truths(self) -> dict[str, Truth]:
        return {}

    def renders(self, model: GaussianModel) -> ViewImages:
        """An avatar in the measured views."""
        return render_views(model.pose(self.viewpoints.posed), self.viewpoints.views.cameras)

    def optimized(self, settings: LabSettings, prior: StableDiffusionPrior) -> Made:
        """An avatar from the body's surface."""
        began = time.monotonic()
        result = optimize(settings.training, self.body, prior, run_prompts(settings.training, prior))
        return Made(result.model, result.metrics, time.monotonic() - began)
