"""Each compared method has the settings of ``guidance=<name>``."""

import pytest

from avatar_gs.cli import compose as config
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import METHODS
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.playground.config import Init, PlaygroundConfig
from avatar_gs.lab.playground.session import chosen_methods
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance


@pytest.mark.parametrize("method", METHODS)
def test_a_preset_read_without_hydra_equals_hydras(method):
    assert named_preset(method) == config.parse(config.composed([f"guidance={method}"])).guidance


def settings(methods=(), own=True, **options):
    playground = PlaygroundConfig(methods=list(methods), own_settings=own, **options)
    given = plain_guidance(method="nfsd", cfg_scale=3.0)
    return lab_settings(prompt="a man", guidance=given, playground=playground)


def test_without_methods_the_guidance_alone_is_chosen():
    assert chosen_methods(settings()) == {"nfsd": plain_guidance(method="nfsd", cfg_scale=3.0)}


def test_each_method_has_its_own_preset_except_the_configured_one():
    chosen = chosen_methods(settings(["csd", "nfsd"]))
    assert chosen["csd"] == named_preset("csd")
    assert chosen["nfsd"].cfg_scale == 3.0


def test_without_own_settings_all_have_the_configured_ones():
    chosen = chosen_methods(settings(["csd", "sds"], own=False))
    assert [(c.method, c.cfg_scale) for c in chosen.values()] == [("csd", 3.0), ("sds", 3.0)]


@pytest.mark.parametrize("method", ["dds", "pds"])
def test_editing_needs_an_image_and_a_source_prompt(method):
    with pytest.raises(UserError, match="edits an image"):
        chosen_methods(settings([method]))
    with pytest.raises(UserError, match="source_prompt="):
        chosen_methods(settings([method], init=Init.image, image="a.png"))
    chosen_methods(settings([method], init=Init.image, image="a.png", source_prompt="a woman"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "playground.steps=0"),
        ({"every": 0}, "playground.every=0"),
        ({"init": Init.image}, "playground.image=<file>"),
        ({"image": "a.png"}, "playground.init=image"),
        ({"methods": ["sds", "sds"]}, "twice"),
        ({"azimuth": float("nan")}, "playground.azimuth"),
    ],
)
def test_user_errors_are_one_line(values, message):
    with pytest.raises(UserError, match=message) as error:
        PlaygroundConfig(**values)
    assert "\n" not in str(error.value)
