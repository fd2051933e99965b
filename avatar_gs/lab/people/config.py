"""Settings of the lifelike world and of the training of a prior on it."""

from dataclasses import dataclass
from typing import Optional

from avatar_gs.core.errors import require, require_counts


@dataclass
class PeopleDatasetConfig:
    """How many people are drawn: ``people`` x ``views`` images."""

    people: int = 12_000
    views: int = 3
    captions: int = 3
    """Captions written for each image."""
    people_per_shard: int = 40
    degraded_fraction: float = 0.05
    """Fraction of images that are spoilt and captioned with the negative words."""
    size: int = 256
    """Pixels of a side."""
    workers: Optional[int] = None
    """Processes; by default one for each core."""
    seed: int = 0

    def __post_init__(self) -> None:
        most = 10_000_000
        require_counts(
            "world.dataset", self, people=(1, most), views=(1, 64), captions=(1, 64), people_per_shard=(1, most)
        )
        require(self.size % 64 == 0 and self.size >= 64, "world.dataset.size", self.size, "a multiple of 64")
        fraction = self.degraded_fraction
        require(0 <= fraction < 1, "world.dataset.degraded_fraction", fraction, "a fraction from 0 to below 1")


@dataclass
class PeopleAutoencoderConfig:
    """The autoencoder's training: AdamW, crops and whole images, a cosine over the last part."""

    steps: int = 9000
    lr: float = 2e-3
    crop: int = 128
    """Pixels of a side of the crops, most of them of faces."""
    crops: int = 8
    """Crops of a step."""
    whole: int = 2
    """Whole images of a step that has no crops."""
    whole_fraction: float = 0.3
    bfloat16: bool = False
    """Mixed precision: a third faster on processors with AVX-512 BF16, slower on others."""
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        require_counts(
            "world.autoencoder",
            self,
            steps=(1, 10_000_000),
            crop=(64, 4096),
            crops=(1, 4096),
            whole=(1, 4096),
            checkpoint_every=(1, 10_000_000),
        )
        require(0 < self.lr <= 1, "world.autoencoder.lr", self.lr, "a rate above 0, at most 1")
        require(0 <= self.whole_fraction <= 1, "world.autoencoder.whole_fraction", self.whole_fraction, "0 to 1")
