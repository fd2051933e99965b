"""Settings of the laboratory, next to the product's: ``lab.<section>.<name>``, or without ``lab.`` on the command line.

Imports neither torch nor Hydra.
"""

from dataclasses import dataclass, field

from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.playground.config import PlaygroundConfig
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.train_prior.config import TrainMiniConfig
from avatar_gs.settings import Settings


@dataclass
class LabConfig:
    """What the stages of the laboratory do."""

    mini: TrainMiniConfig = field(default_factory=TrainMiniConfig)
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
