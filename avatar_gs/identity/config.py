"""Settings of the training of an identity: token embeddings of ``<id>``, from photos of one person."""

from dataclasses import dataclass, replace
from enum import Enum

from avatar_gs.core.errors import require
from avatar_gs.core.validation import Section, bounded
from avatar_gs.prior.config import WEARING, PromptStyle

MAX_TOKENS, MAX_STEPS, MAX_BATCH = 16, 100_000, 64


class IdentityMethod(Enum):
    """Initial embeddings: cross_init, the text encoder's output for the mean of well-known people's names (and
    regularised towards it); textual_inversion, the word "person"."""

    cross_init = "cross_init"
    textual_inversion = "textual_inversion"


class Clothes(Enum):
    """Whether a prompt may change the clothes of the photos.

    ``free``: it may (the photos are described, and other outfits distilled: see ``identity.outfits``). ``bound``: the
    clothes are learned with the person, as in the paper of Cross Initialization. ``auto``: chosen from prior and
    method. ``own`` is the former name of ``auto``.
    """

    auto = "auto"
    own = "auto"  # noqa: PIE796 (an alias)
    free = "free"
    bound = "bound"


class Weighting(Enum):
    """Probability of each timestep.

    ``plain``: uniform. ``noisy``: increasing with the noise. ``auto``: chosen from the prior's style. ``own`` is the
    former name of ``auto``.
    """

    auto = "auto"
    own = "auto"  # noqa: PIE796 (an alias)
    plain = "plain"
    noisy = "noisy"


@dataclass(frozen=True)
class Recipe:
    """Defaults by style of the prior: a small text encoder needs more embeddings and larger steps than CLIP."""

    tokens: int
    steps: int
    batch: int
    lr: float
    weighting: Weighting


# sd: as published for Cross Initialization (2 tokens; learning rate 6.25e-4 times batch 8); with free clothes untested.
# mini: chosen by the colours of samples of two people.
RECIPES = {
    (PromptStyle.sd, Clothes.bound): Recipe(tokens=2, steps=320, batch=8, lr=5e-3, weighting=Weighting.plain),
    (PromptStyle.sd, Clothes.free): Recipe(tokens=2, steps=400, batch=8, lr=5e-3, weighting=Weighting.plain),
    (PromptStyle.mini, Clothes.bound): Recipe(tokens=8, steps=400, batch=8, lr=5e-2, weighting=Weighting.noisy),
    (PromptStyle.mini, Clothes.free): Recipe(tokens=8, steps=375, batch=8, lr=3e-2, weighting=Weighting.noisy),
}
FAST_STEPS, FAST_LR = 25, 4.0
"""Steps of the fast variant, and the factor on its learning rate."""


@dataclass
class EmbedConfig(Section):
    """The training of an identity. Numbers that are 0 are chosen from the prior (see ``resolved``)."""

    section = "embed"
    method: IdentityMethod = IdentityMethod.cross_init
    tokens: int = bounded(0, 0, MAX_TOKENS)
    """Token embeddings of ``<id>``, 1 to 16; 0: chosen from the prior."""
    steps: int = bounded(0, 0, MAX_STEPS)
    batch: int = bounded(0, 0, MAX_BATCH)
    """Photos per step, 1 to 64; 0: chosen from the prior."""
    lr: float = bounded(0.0, 0, 10, expected="a learning rate up to 10, or 0 for the prior's own")
    """Learning rate (AdamW, constant) up to 10; 0: chosen from the prior."""
    fast: bool = False
    """Few, larger steps: a first impression in seconds."""
    weighting: Weighting = Weighting.auto
    clothes: Clothes = Clothes.auto
    """Auto: free for the packaged prior with cross_init; bound with any other, textual_inversion or fast."""
    describe: str = ""
    """The photos' content, for free clothes: "a woman with red hair wearing a blue coat and black boots". Empty: the
    prior describes them."""
    regularisation: float = bounded(1e-5, 0, 1e6, expected="a weight from 0 (none) to 1e6")
    """Weight of the embeddings' mean distance from their initial values (cross_init only), 0 to 1e6."""
    flips: bool = True
    """Train on mirrored photos, too; false for text on clothes, or a face that is not symmetric."""
    min_size: int = bounded(64, 1, 100_000)
    """Smallest shorter side of a photo in pixels; smaller ones are skipped."""
    remove_background: bool = False
    """Cut the person out of every photo first (needs the extra ``photos``)."""
    preview_every: int = bounded(80, 0, MAX_STEPS)
    """Steps between two sheets of samples of ``<id>``; 0: only at the end."""
    checkpoint_every: int = bounded(40, 0, MAX_STEPS)
    """Steps between two checkpoints; 0: only at Ctrl-C."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.describe or all(part.strip() for part in self.describe.partition(WEARING)),
            "embed.describe",
            self.describe,
            f"a person and their clothes, as in a man with grey hair{WEARING}a red shirt and blue trousers",
        )

    def resolved(self, style: PromptStyle) -> "EmbedConfig":
        """The settings with every ``auto`` and 0 replaced. Given values override ``fast``, which overrides the style's
        recipe."""
        clothes = self._clothes(style)
        recipe = RECIPES[style, clothes]
        return replace(
            self,
            tokens=self.tokens or recipe.tokens,
            steps=self.steps or (FAST_STEPS if self.fast else recipe.steps),
            batch=self.batch or recipe.batch,
            lr=self.lr or recipe.lr * (FAST_LR if self.fast else 1.0),
            weighting=recipe.weighting if self.weighting is Weighting.auto else self.weighting,
            clothes=clothes,
        )

    def _clothes(self, style: PromptStyle) -> Clothes:
        if self.clothes is not Clothes.auto:
            return self.clothes
        free = style is PromptStyle.mini and self.method is IdentityMethod.cross_init and not self.fast
        return Clothes.free if free or self.describe else Clothes.bound
