"""Settings of the evaluation suites."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from avatar_gs.core.validation import Section, bounded

MAX_PROMPTS = 500
MAX_PEOPLE = 20
MAX_ABLATED = 64
MAX_STEPS = 100_000


class SuiteName(Enum):
    """What ``stage=evaluate`` measures: avatars' colours and shapes against drawn truth (colours); their likeness to
    people known by a few photos (identity); the prior's 2D samples (prior); avatars by the scores of the literature
    (scores); the likeness of a finished run to the user's own photos (likeness); what views and light contribute
    (shading); the guidance methods compared with each other (methods); what is claimed of them (claims); what editing
    an avatar changes and keeps (editing); or what networks that know real people find in samples and avatars (judges).
    """

    colours = "colours"
    identity = "identity"
    prior = "prior"
    scores = "scores"
    likeness = "likeness"
    shading = "shading"
    methods = "methods"
    claims = "claims"
    editing = "editing"
    judges = "judges"


def _count(default: int, low: int = 1, high: int = MAX_PROMPTS) -> Any:
    return bounded(default, low, high, expected=f"a whole number from {low} to {high}")


@dataclass
class EvaluateConfig(Section):
    """How much is measured. The avatars are made with the command's own settings (by default experiment=quick)."""

    section = "evaluate"

    prompts: int = _count(12)
    """Held-out prompts of suite=colours. The full grid is 24 prompts with 3 seeds."""
    seeds: int = _count(1)
    """Avatars of each prompt or person: with ``seed``, ``seed + 1``, …"""
    controls: int = _count(3, low=0)
    """Prompts that the controls run on (no guidance, a prior of random weights); 0 leaves all controls out."""
    red_blue: int = _count(2, low=0)
    """Prompts in red and blue, made once as they are and once with the prior's words red and blue exchanged."""
    people: int = _count(6, high=MAX_PEOPLE)
    """People of suite=identity. The full grid is 20 people with 3 seeds."""
    few_people: int = _count(3, low=0, high=MAX_PEOPLE)
    """Those of them on whom fewer photos and the ablations are tried; 0 leaves these out."""
    samples: int = _count(200)
    """Held-out prompts of suite=prior."""
    pose_scale: float = bounded(2.0, 1, 10, expected="a number from 1 to 10")
    """Guidance on the pose maps of suite=prior (``StableDiffusionPrior.sample``); 1: none."""

    methods: list[str] = field(default_factory=list)
    """Presets of ``guidance`` that suite=methods compares; empty: every method that makes an avatar from nothing."""
    method_prompts: int = _count(2)
    """Held-out prompts of suite=methods. The full grid is 12 prompts with 5 seeds and 250 steps."""
    method_seeds: int = _count(2)
    """Avatars of each of them by each method: with ``seed``, ``seed + 1``, …; diversity needs two."""
    method_steps: int = _count(160, high=MAX_STEPS)
    """Steps of an avatar of suite=methods, where all methods take equally many."""
    claims: list[str] = field(default_factory=list)
    """Claims that suite=claims checks; empty: all."""
    claim_seeds: int = _count(3, low=3)
    """Runs of every recipe of suite=claims, each with another held-out prompt: with ``seed``, ``seed + 1``, …"""
    claim_steps: int = _count(500, low=10, high=MAX_STEPS)
    """Steps of a run of suite=claims."""

    ablated: int = _count(8, high=MAX_ABLATED)
    """Held-out prompts of suite=shading, each with the five rows of DreamFusion's ablation."""

    edit_methods: list[str] = field(default_factory=list)
    """Presets of ``guidance`` that suite=editing compares; empty: gentle_dds, gentle_pds, dds, pds and de_sds."""
    edit_prompts: int = _count(3)
    """Held-out people of suite=editing. Each has one thing changed, by turns: the shirt's colour, the bottoms' colour,
    and a hat put on. The full grid is 12 people with 3 seeds."""
    edit_seeds: int = _count(1)
    """Edits of each by each method: with ``seed``, ``seed + 1``, …, from avatars made with the same."""
    edit_steps: int = _count(400, high=MAX_STEPS)
    """Steps of an edit."""

    scored_prompts: int = _count(3)
    """Held-out prompts of suite=scores. The full grid is 12 prompts with 5 seeds."""
    scored_seeds: int = _count(2)
    """Avatars of each of them: with ``seed``, ``seed + 1``, …; diversity needs two."""
    pool: int = _count(100, low=2)
    """Prompts among which R-Precision looks for an image's own."""
    clip: str = ""
    """The judge of suite=scores and suite=likeness: a CLIP of transformers by folder or hub name; empty: the packaged
    scorer."""
    lpips: str = ""
    """A file (or its folder) with torchvision's ImageNet weights of AlexNet or VGG16; empty: no LPIPS."""
    faces: str = ""
    """A folder with YuNet and SFace of the OpenCV Zoo, for suite=likeness; empty: no face similarity."""

    judges: str = ".venv-judges/bin/python"
    """The interpreter of the judges of suite=judges, which need libraries of their own (``make judges``)."""
    assets: str = ""
    """The folder of assets of the lifelike people that suite=judges renders; empty: none."""
    judged_people: int = _count(24, low=0)
    """Lifelike people of suite=judges, 14 images each."""
    judged_samples: int = _count(24, low=0)
    """Held-out prompts that the prior is sampled for, 14 images each."""
    judged_avatars: int = _count(3, low=0)
    """Held-out prompts of avatars."""
