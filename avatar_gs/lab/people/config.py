"""Settings of the lifelike world and of the training of a prior on it."""

from dataclasses import dataclass, field
from typing import Optional

from avatar_gs.core.errors import require
from avatar_gs.core.validation import Section, bounded
from avatar_gs.lab.train_prior.config import DenoiserConfig

MOST = 10_000_000


@dataclass
class PeopleDatasetConfig(Section):
    """Size of the training set: ``people`` x ``views`` images."""

    section = "people.dataset"
    people: int = bounded(12_000, low=1, high=MOST)
    views: int = bounded(3, low=1, high=64)
    """Images of each person."""
    captions: int = bounded(3, low=1, high=64)
    """Captions of each image."""
    people_per_shard: int = bounded(40, low=1, high=MOST)
    degraded_fraction: float = bounded(0.05, low=0, high=1, below=True)
    """Fraction of images that are degraded and captioned with negative words."""
    faces: float = bounded(0.0, low=0, high=1)
    """Fraction of the people of whom only close-ups of the face are rendered, for training on with more faces."""
    size: int = 256
    """Pixels of a side; a multiple of 64."""
    workers: Optional[int] = None
    """Processes; None: one per core."""
    seed: int = 0
    meanwhile: bool = False
    """Render while the denoiser trains, for machines where a GPU trains: training starts with ``first_people``."""
    first_people: int = bounded(1000, low=1, high=MOST)
    refresh_every: int = bounded(500, low=1, high=MOST)
    """With ``meanwhile``: steps between two looks for new images."""

    def shards(self, people: int | None = None) -> list[str]:
        """Names of the shard files that hold the first ``people`` (None: all)."""
        count = -(-min(people or self.people, self.people) // self.people_per_shard)
        return [f"shard_{index:05d}.npz" for index in range(count)]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size % 64 == 0 and self.size >= 64, "people.dataset.size", self.size, "a multiple of 64")


@dataclass
class PeopleAutoencoderConfig(Section):
    """Training of the autoencoder: AdamW, crops and whole images, cosine decay over the second half."""

    section = "people.autoencoder"
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
    decoder_steps: int = bounded(0, low=0, high=MOST)
    """Steps in which the decoder alone is trained on, after ``denoiser.start``: latents and denoiser stay valid."""
    decoder_lr: float = bounded(5e-4, low=0, high=1, above=True)
    """Learning rate of these steps."""
    checkpoint_every: int = bounded(250, low=1, high=MOST)
    """Steps between checkpoints."""


@dataclass
class PeopleDenoiserConfig(DenoiserConfig):
    """Joint training of text encoder, UNet and ControlNet at 256 pixels."""

    section = "people.denoiser"
    steps: int = bounded(30_000, low=1, high=MOST)
    start: str = ""
    """Prior whose weights and autoencoder the training continues: a folder, or ``packaged``. Empty: the mini prior's
    networks inside a finer level (see ``lab.people.warm_start``)."""


@dataclass
class TrainPeopleConfig:
    """``stage=train_prior world=people``: images, autoencoder and denoiser, each resumable, in ``folder``."""

    folder: str = "outputs/train_people"
    assets: str = ""
    """Folder of the asset pack (docs: laboratory); needed until all images are rendered."""
    dataset: PeopleDatasetConfig = field(default_factory=PeopleDatasetConfig)
    autoencoder: PeopleAutoencoderConfig = field(default_factory=PeopleAutoencoderConfig)
    denoiser: PeopleDenoiserConfig = field(default_factory=PeopleDenoiserConfig)
