"""Stable Diffusion's real classes in miniature: epsilon (sd15), v (sd21) and two text encoders (sdxl)."""

import pytest

from avatar_gs.protocols import Describable

FAMILIES = ("sd15", "sd21", "sdxl")
NAMES = ("red man", "a tall", "blue shirt xylophone", "body")
WORDS = Describable(
    person=("a man", "a woman"),
    looks={"height": ("", "very tall")},
    clothes={"top": ("a red shirt", "a blue shirt", "a green shirt"), "bottoms": ("", "red trousers")},
)


@pytest.fixture(scope="session")
def priors(tmp_path_factory):
    from avatar_gs.prior.parts import Parts  # most tests here need no diffusers
    from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
    from avatar_gs.prior.vocabulary import Words
    from tests import tiny

    return {
        family: StableDiffusionPrior(
            Parts(**tiny.parts(tmp_path_factory.mktemp(family), family)),
            words=Words(known_names=NAMES, describable=WORDS),
        )
        for family in FAMILIES
    }
