"""Settings of the packaged prior's training."""

from dataclasses import dataclass, field
from typing import Optional

from avatar_gs.core.validation import Section, bounded


@dataclass
class DatasetConfig(Section):
    """Size of the training set: ``people`` x ``views`` x ``recolourings`` images."""

    section = "mini.dataset"
    people: int = bounded(6000, low=1)
    """Number of geometries."""
    views: int = bounded(3, low=1)
    """Views of each geometry."""
    recolourings: int = bounded(3, low=1)
    """Images of each view, each in other colours."""
    people_per_shard: int = bounded(50, low=1)
    degraded_share: float = bounded(0.06, low=0, high=1, below=True)
    """Fraction of images that are degraded and captioned with negative words."""
    workers: Optional[int] = None
    """Processes; None: one per core."""
    seed: int = 0


@dataclass
class AutoencoderConfig(Section):
    """Training of the autoencoder: Adam, cosine decay over the second half."""

    section = "mini.autoencoder"
    steps: int = bounded(4600, low=1)
    batch: int = bounded(4, low=1)
    lr: float = bounded(2e-3, low=0, above=True)
    checkpoint_every: int = bounded(500, low=1)
    """Steps between checkpoints."""


@dataclass
class DenoiserConfig(Section):
    """Joint training of text encoder, UNet and ControlNet: AdamW, cosine decay after 40 % of the steps, EMA."""

    steps: int = bounded(11_000, low=1)
    batch: int = bounded(32, low=1)
    lr: float = bounded(8e-4, low=0, above=True)
    caption_dropout: float = bounded(0.10, low=0, high=1)
    """Probability that an image is trained with the empty caption."""
    control_dropout: float = bounded(0.15, low=0, high=1)
    """Probability that an image is trained with a black pose map."""
    checkpoint_every: int = bounded(250, low=1)
    """Steps between checkpoints."""
    bfloat16: bool = False
    """Mixed precision: 25 % faster on processors with AVX-512 BF16, twice as fast with AMX, slower on others."""
    compiled: bool = False
    """``torch.compile`` the networks: needs a C++ compiler, starts minutes later, makes steps 10 % faster."""


@dataclass
class DiffusionConfig(DenoiserConfig):
    """Joint training of text encoder, UNet and ControlNet from scratch, or from the packaged weights."""

    section = "mini.diffusion"
    from_packaged: bool = False
    """Start from the packaged EMA weights instead of from scratch."""


@dataclass
class TrainMiniConfig:
    """``stage=train_prior``: training set, autoencoder and diffusion, each resumable, in ``folder``."""

    folder: str = "outputs/train_mini"
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
