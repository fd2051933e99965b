"""Settings of the training of an identity: ``<id>``'s rows of token embeddings, from photos of one person."""

from dataclasses import dataclass, replace
from enum import Enum

from avatar_gs.core.errors import require, require_counts
from avatar_gs.prior.config import WEARING, PromptStyle

MAX_TOKENS, MAX_STEPS, MAX_BATCH = 16, 100_000, 64


class IdentityMethod(Enum):
    """How the rows begin: cross_init, at what the text encoder makes of well-known people's mean (and held near it);
    textual_inversion, at the word "person"."""

    cross_init = "cross_init"
    textual_inversion = "textual_inversion"


class Clothes(Enum):
    """Whether a prompt may change the clothes of the photos: ``free``, it may (the photos are described, and other
    outfits rehearsed: see ``identity.rehearsal``); ``bound``, they are learned with the person, as Cross Initialization
    is published; ``own``, as suits prior and method."""

    own = "own"
    free = "free"
    bound = "bound"


class Weighting(Enum):
    """How often each time step is drawn: ``plain``, all alike; ``noisy``, more where there is more noise; ``own``, as
    suits the prior's style."""

    own = "own"
    plain = "plain"
    noisy = "noisy"


@dataclass(frozen=True)
class Recipe:
    """What is left to the prior's style: a small text encoder needs more rows and larger steps than CLIP's."""

    tokens: int
    steps: int
    batch: int
    lr: float
    weighting: Weighting


# sd: as the authors of Cross Initialization train (2 tokens; learning rate 6.25e-4 times batch 8); with free clothes
# untried. mini: the best of a few short trials on two people, by the colours of samples (4 rows or fewer steps say too
# little, larger steps too much); with free clothes by samples of two people.
RECIPES = {
    (PromptStyle.sd, Clothes.bound): Recipe(tokens=2, steps=320, batch=8, lr=5e-3, weighting=Weighting.plain),
    (PromptStyle.sd, Clothes.free): Recipe(tokens=2, steps=400, batch=8, lr=5e-3, weighting=Weighting.plain),
    (PromptStyle.mini, Clothes.bound): Recipe(tokens=8, steps=400, batch=8, lr=5e-2, weighting=Weighting.noisy),
    (PromptStyle.mini, Clothes.free): Recipe(tokens=8, steps=375, batch=8, lr=3e-2, weighting=Weighting.noisy),
}
FAST_STEPS, FAST_LR = 25, 4.0
"""The fast variant: so many steps, at so many times the learning rate."""


@dataclass
class EmbedConfig:
    """The training of an identity. Numbers that are 0 are the prior's own (see ``resolved``)."""

    method: IdentityMethod = IdentityMethod.cross_init
    tokens: int = 0
    """Rows that ``<id>`` stands for."""
    steps: int = 0
    batch: int = 0
    """Pictures a step."""
    lr: float = 0.0
    """Learning rate (AdamW, constant)."""
    fast: bool = False
    """Few, larger steps: a first impression in seconds."""
    weighting: Weighting = Weighting.own
    clothes: Clothes = Clothes.own
    """Own: free for the packaged prior with cross_init; bound with any other, textual_inversion or fast."""
    describe: str = ""
    """What the photos show, for free clothes: "a woman with red hair wearing a blue coat and black boots". Empty: the
    prior is asked."""
    regularisation: float = 1e-5
    """Weight of the rows' mean distance from where they began (cross_init only)."""
    flips: bool = True
    """Train on mirrored pictures too; false for text on clothes, or a face that is not symmetric."""
    min_size: int = 64
    """Pictures with a shorter side than so many pixels are left out."""
    remove_background: bool = False
    """Cut the person out of every photo first (needs the extra ``photos``)."""
    preview_every: int = 80
    """Steps between two sheets of the prior's pictures of ``<id>``; 0: only at the end."""
    checkpoint_every: int = 40
    """Steps between two checkpoints; 0: only at Ctrl-C."""

    def __post_init__(self) -> None:
        require_counts(
            "embed",
            self,
            tokens=(0, MAX_TOKENS),
            steps=(0, MAX_STEPS),
            batch=(0, MAX_BATCH),
            min_size=(1, 100_000),
            preview_every=(0, MAX_STEPS),
            checkpoint_every=(0, MAX_STEPS),
        )
        require(0 <= self.lr <= 10, "embed.lr", self.lr, "a learning rate up to 10, or 0 for the prior's own")
        require(
            0 <= self.regularisation <= 1e6,
            "embed.regularisation",
            self.regularisation,
            "a weight from 0 (none) to 1e6",
        )
        require(
            not self.describe or all(part.strip() for part in self.describe.partition(WEARING)),
            "embed.describe",
            self.describe,
            f"a person and their clothes, as in a man with grey hair{WEARING}a red shirt and blue trousers",
        )

    def resolved(self, style: PromptStyle) -> "EmbedConfig":
        """The same settings with nothing left to the prior; what is given wins over ``fast``, which wins over the
        prior's own."""
        clothes = self._clothes(style)
        own = RECIPES[style, clothes]
        return replace(
            self,
            tokens=self.tokens or own.tokens,
            steps=self.steps or (FAST_STEPS if self.fast else own.steps),
            batch=self.batch or own.batch,
            lr=self.lr or own.lr * (FAST_LR if self.fast else 1.0),
            weighting=own.weighting if self.weighting is Weighting.own else self.weighting,
            clothes=clothes,
        )

    def _clothes(self, style: PromptStyle) -> Clothes:
        if self.clothes is not Clothes.own:
            return self.clothes
        suits = style is PromptStyle.mini and self.method is IdentityMethod.cross_init and not self.fast
        return Clothes.free if suits or self.describe else Clothes.bound
