"""Settings of the laboratory, next to the product's: ``lab.<section>.<name>``, or without ``lab.`` on the command line.

Imports neither torch nor Hydra.
"""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.people.config import TrainPeopleConfig
from avatar_gs.lab.playground.config import PlaygroundConfig
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.train_prior.config import TrainMiniConfig
from avatar_gs.settings import Settings


class World(Enum):
    """The people that a prior is trained on: drawn in flat colours at 128 pixels, or lifelike at 256."""

    mini = "mini"
    people = "people"


@dataclass
class LabConfig:
    """What the stages of the laboratory do."""

    world: World = World.mini
    """What ``stage=train_prior`` trains on."""
    mini: TrainMiniConfig = field(default_factory=TrainMiniConfig)
    people: TrainPeopleConfig = field(default_factory=TrainPeopleConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    suite: SuiteName = SuiteName.colours
    """What ``stage=evaluate`` measures."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    playground: PlaygroundConfig = field(default_factory=PlaygroundConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)


@dataclass
class LabSettings(Settings):
    """All settings where the laboratory is installed."""

    lab: LabConfig = field(default_factory=LabConfig)
