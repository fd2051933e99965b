"""Settings of the lifelike world and of the training of a prior on it."""

from dataclasses import dataclass
from typing import Optional

from avatar_gs.core.errors import require
from avatar_gs.core.validation import Section, bounded

MOST = 10_000_000


@dataclass
class PeopleDatasetConfig(Section):
    """Size of the training set: ``people`` x ``views`` images."""

    section = "world.dataset"
    people: int = bounded(12_000, low=1, high=MOST)
    views: int = bounded(3, low=1, high=64)
    """Images of each person."""
    captions: int = bounded(3, low=1, high=64)
    """Captions of each image."""
    people_per_shard: int = bounded(40, low=1, high=MOST)
    degraded_fraction: float = bounded(0.05, low=0, high=1, below=True)
    """Fraction of images that are degraded and captioned with negative words."""
    size: int = 256
    """Pixels of a side; a multiple of 64."""
    workers: Optional[int] = None
    """Processes; None: one per core."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size % 64 == 0 and self.size >= 64, "world.dataset.size", self.size, "a multiple of 64")


@dataclass
class PeopleAutoencoderConfig(Section):
    """Training of the autoencoder: AdamW, crops and whole images, cosine decay over the second half."""

    section = "world.autoencoder"
    steps: int = bounded(9000, low=1, high=MOST)
    lr: float = bounded(2e-3, low=0, high=1, above=True)
    crop: int = bounded(128, low=64, high=4096)
    """Pixels of a side of the crops, most of which show faces."""
    crops: int = bounded(8, low=1, high=4096)
    """Crops per step."""
    whole: int = bounded(2, low=1, high=4096)
    """Whole images per step without crops."""
    whole_fraction: float = bounded(0.3, low=0, high=1)
    """Fraction of steps with whole images in place of crops."""
    bfloat16: bool = False
    """Mixed precision: a third faster on processors with AVX-512 BF16, slower on others."""
    checkpoint_every: int = bounded(250, low=1, high=MOST)
    """Steps between checkpoints."""
