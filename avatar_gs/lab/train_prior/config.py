"""Settings of the packaged prior's training, and of the scorer's."""

from dataclasses import dataclass, field
from typing import Optional

from avatar_gs.core.errors import UserError, require


@dataclass
class DatasetConfig:
    """How many synthetic people are drawn: ``people`` geometries x ``views`` x ``recolourings`` pictures."""

    people: int = 6000
    views: int = 3
    recolourings: int = 3
    people_per_shard: int = 50
    degraded_share: float = 0.06
    workers: Optional[int] = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("people", "views", "recolourings", "people_per_shard"):
            require(getattr(self, name) >= 1, f"mini.dataset.{name}", getattr(self, name), "at least 1")
        require(0 <= self.degraded_share < 1, "mini.dataset.degraded_share", self.degraded_share, "0 <= share < 1")


@dataclass
class AutoencoderConfig:
    """The small VAE's training: Adam, cosine decay over the second half."""

    steps: int = 4600
    batch: int = 4
    lr: float = 2e-3
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.lr <= 0:
            raise UserError("mini.autoencoder: steps and batch must be at least 1 and lr above 0")


@dataclass
class DiffusionConfig:
    """Joint training of text encoder, UNet and ControlNet from scratch, or from the packaged weights."""

    steps: int = 11_000
    batch: int = 32
    lr: float = 8e-4
    caption_dropout: float = 0.10
    control_dropout: float = 0.15
    checkpoint_every: int = 250
    from_packaged: bool = False
    """Start from the packaged EMA weights instead of from scratch."""
    bfloat16: bool = False
    """Mixed precision: a quarter faster on processors with AVX-512 BF16, slower on others."""
    compiled: bool = False
    """``torch.compile`` the networks: needs a C++ compiler, minutes at the start, and saves a tenth of each step."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.lr <= 0:
            raise UserError("mini.diffusion: steps and batch must be at least 1 and lr above 0")


@dataclass
class TrainMiniConfig:
    """``stage=train_mini``: data, autoencoder, diffusion, each restartable, into ``folder``."""

    folder: str = "outputs/train_mini"
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


@dataclass
class ScorerConfig:
    """``stage=train_scorer``: the scorer sees ``people`` x ``recolourings`` persons in ``views`` pictures each."""

    folder: str = "outputs/train_scorer"
    people: int = 2000
    recolourings: int = 2
    views: int = 6
    people_per_shard: int = 50
    textureless_share: float = 0.12
    """Share of the pictures that show a white person in random light, as evaluation shows avatars without texture."""
    shaded_share: float = 0.08
    """Share of the pictures whose colours are lit by a lamp near the camera."""
    workers: Optional[int] = None
    steps: int = 3000
    batch: int = 40
    """Persons a step; each is seen in two pictures."""
    lr: float = 1.5e-3
    person_weight: float = 0.5
    """Weight of telling persons apart, beside telling captions apart."""
    face_steps: int = 1000
    """Steps of the face detector."""
    face_people: int = 130
    """People whose heads it sees."""
    view_steps: int = 3000
    """Steps of the judge of views."""
    view_people: int = 2500
    """People whose heads it sees."""
    measured_people: int = 300
    checkpoint_every: int = 100
    from_packaged: bool = False
    """Start from the packaged weights instead of from scratch."""
    bfloat16: bool = False
    """Mixed precision: twice as fast on processors with AVX-512 BF16, slower on others."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (
            "people",
            "recolourings",
            "people_per_shard",
            "steps",
            "face_steps",
            "face_people",
            "view_steps",
            "view_people",
            "checkpoint_every",
        )
        for name in counts:
            require(getattr(self, name) >= 1, f"scorer.{name}", getattr(self, name), "at least 1")
        if self.views < 2 or self.batch < 2:
            raise UserError(
                f"scorer.views={self.views} scorer.batch={self.batch}: expected at least 2 of each, to compare"
            )
        if self.batch > self.people * self.recolourings:
            raise UserError(
                f"scorer.batch={self.batch}: expected at most scorer.people x scorer.recolourings, "
                f"{self.people * self.recolourings}"
            )
        for name in ("textureless_share", "shaded_share"):
            require(0 <= getattr(self, name) <= 1, f"scorer.{name}", getattr(self, name), "a share, 0 to 1")
        if self.textureless_share + self.shaded_share > 1:
            raise UserError(
                f"scorer.textureless_share={self.textureless_share} scorer.shaded_share={self.shaded_share}: "
                "expected at most 1 together"
            )
        if self.lr <= 0 or self.person_weight < 0:
            raise UserError(
                f"scorer.lr={self.lr} scorer.person_weight={self.person_weight}: expected above 0, and not below 0"
            )
        require(
            self.measured_people >= 100,
            "scorer.measured_people",
            self.measured_people,
            "at least 100, a pool of captions",
        )
