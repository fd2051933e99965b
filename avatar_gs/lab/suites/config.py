"""Settings of the evaluation suites."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.errors import require, require_counts

MAX_PROMPTS = 500
MAX_PEOPLE = 20
MAX_ABLATED = 64
MAX_STEPS = 100_000


class Suite(Enum):
    """What ``stage=evaluate`` measures: avatars' colours and shapes against drawn truth, their likeness to people of
    whom a few pictures are given, the prior's 2D samples, the methods of guidance beside each other, what is claimed
    of them, what views and light do for an avatar, avatars by the scores of the literature, what editing an avatar
    changes and keeps, or the likeness of a finished run to the user's own photos."""

    colours = "colours"
    identity = "identity"
    prior = "prior"
    scores = "scores"
    likeness = "likeness"
    shading = "shading"
    methods = "methods"
    claims = "claims"
    editing = "editing"


@dataclass
class EvaluateConfig:
    """How much is measured. The avatars are made with the command's own settings (by default experiment=quick)."""

    prompts: int = 12
    """Held-out prompts of suite=colours. The full grid is 24 prompts with 3 seeds."""
    seeds: int = 1
    """Avatars of each prompt or person: with ``seed``, ``seed + 1``, …"""
    controls: int = 3
    """Prompts that the controls run on (no guidance, a prior of random weights); 0 leaves all controls out."""
    red_blue: int = 2
    """Prompts in red and blue, made once as they are and once with the prior's words red and blue exchanged."""
    people: int = 6
    """People of suite=identity. The full grid is 20 people with 3 seeds."""
    few_people: int = 3
    """Those of them on whom fewer pictures and the ablations are tried; 0 leaves these out."""
    samples: int = 200
    """Held-out prompts of suite=prior."""
    pose_scale: float = 2.0
    """Guidance on the pose maps of suite=prior (``StableDiffusionPrior.sample``); 1: none."""

    methods: list[str] = field(default_factory=list)
    """Presets of ``guidance`` that suite=methods compares; empty: every method that begins anew."""
    method_prompts: int = 2
    """Held-out prompts of suite=methods. The full grid is 12 prompts with 5 seeds and 250 steps."""
    method_seeds: int = 2
    """Avatars of each of them by each method: with ``seed``, ``seed + 1``, …; diversity needs two."""
    method_steps: int = 160
    """Steps of an avatar of suite=methods, where all methods take equally many."""
    claims: list[str] = field(default_factory=list)
    """Claims that suite=claims checks; empty: all."""
    claim_seeds: int = 3
    """Runs of every recipe of suite=claims, each with another held-out prompt: with ``seed``, ``seed + 1``, …"""
    claim_steps: int = 500
    """Steps of a run of suite=claims."""

    ablated: int = 8
    """Held-out prompts of suite=shading, each with the five rows of DreamFusion's ablation."""

    edit_methods: list[str] = field(default_factory=list)
    """Presets of ``guidance`` that suite=editing compares; empty: gentle_dds, gentle_pds, dds, pds and de_sds."""
    edit_prompts: int = 3
    """Held-out people of suite=editing. Each has one thing changed, by turns: the shirt's colour, the bottoms' colour,
    and a hat put on. The full grid is 12 people with 3 seeds."""
    edit_seeds: int = 1
    """Edits of each by each method: with ``seed``, ``seed + 1``, …, from avatars made with the same."""
    edit_steps: int = 400
    """Steps of an edit."""

    scored_prompts: int = 3
    """Held-out prompts of suite=scores. The full grid is 12 prompts with 5 seeds."""
    scored_seeds: int = 2
    """Avatars of each of them: with ``seed``, ``seed + 1``, …; diversity needs two."""
    pool: int = 100
    """Prompts among which R-Precision looks for a picture's own."""
    clip: str = ""
    """The judge of suite=scores and suite=likeness: a CLIP of transformers by folder or hub name; empty: the packaged
    scorer."""
    lpips: str = ""
    """A file (or its folder) with torchvision's ImageNet weights of AlexNet or VGG16; empty: no LPIPS."""
    faces: str = ""
    """A folder with YuNet and SFace of the OpenCV Zoo, for suite=likeness; empty: no face similarity."""

    def __post_init__(self) -> None:
        require(1 <= self.pose_scale <= 10, "evaluate.pose_scale", self.pose_scale, "a number from 1 to 10")
        require_counts(
            "evaluate",
            self,
            prompts=(1, MAX_PROMPTS),
            seeds=(1, MAX_PROMPTS),
            controls=(0, MAX_PROMPTS),
            red_blue=(0, MAX_PROMPTS),
            people=(1, MAX_PEOPLE),
            few_people=(0, MAX_PEOPLE),
            samples=(1, MAX_PROMPTS),
            ablated=(1, MAX_ABLATED),
            scored_prompts=(1, MAX_PROMPTS),
            scored_seeds=(1, MAX_PROMPTS),
            pool=(2, MAX_PROMPTS),
            method_prompts=(1, MAX_PROMPTS),
            method_seeds=(1, MAX_PROMPTS),
            method_steps=(1, MAX_STEPS),
            edit_prompts=(1, MAX_PROMPTS),
            edit_seeds=(1, MAX_PROMPTS),
            edit_steps=(1, MAX_STEPS),
            claim_seeds=(3, MAX_PROMPTS),
            claim_steps=(10, MAX_STEPS),
        )
