import math

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.lab.world.captions import view_suffix
from avatar_gs.lab.world.vocabulary import NEGATIVE_WORDS
from avatar_gs.prior.config import PriorConfig, PromptConfig, PromptStyle
from avatar_gs.prior.prompts import BUCKETS, bucket_prompts, view_buckets
from avatar_gs.types import Bucket, Cameras, Framing, ViewDirection, Views

SD = PromptConfig(style=PromptStyle.sd)


def views(azimuths, elevations=None, framing=Framing.BODY):
    n = len(azimuths)
    cameras = Cameras(torch.eye(4).repeat(n, 1, 1), torch.eye(3).repeat(n, 1, 1), 8, 8)
    degrees = torch.tensor(azimuths, dtype=torch.float32), torch.tensor(elevations or [0.0] * n)
    return Views(cameras, (framing,) * n, *(torch.deg2rad(d) for d in degrees))


def seen_as(shown, config=None):
    """The views' buckets, as text."""
    return list(map(str, view_buckets(shown, config or PromptConfig())))


@pytest.mark.parametrize(
    ("azimuth", "direction"),
    [
        *[(0, "front"), (59, "front"), (-59, "front"), (360, "front")],
        *[(61, "side"), (-61, "side"), (90, "side"), (119, "side"), (270, "side")],
        *[(121, "back"), (-121, "back"), (180, "back"), (-180, "back"), (540, "back")],
    ],
)
def test_directions_follow_the_azimuth(azimuth, direction):
    assert seen_as(views([azimuth])) == [f"body/{direction}"]


def test_thresholds_are_configurable():
    config = PromptConfig(front_degrees=30.0, back_degrees=150.0)
    assert seen_as(views([45, 130]), config) == ["body/side", "body/side"]
    with pytest.raises(UserError, match="front_degrees"):
        PromptConfig(front_degrees=130.0)


def test_only_stable_diffusion_has_overhead_views():
    above = views([0, 180], [61, 61])
    assert seen_as(above, SD) == ["body/overhead"] * 2
    assert seen_as(above) == ["body/front", "body/back"]
    assert seen_as(views([0], [59]), SD) == ["body/front"]


def test_every_bucket_of_a_style_has_its_own_prompt():
    assert set(bucket_prompts("a man", "", SD)) == set(BUCKETS)
    mini = bucket_prompts("a man", "", PromptConfig())
    assert set(mini) == {bucket for bucket in BUCKETS if bucket.direction is not ViewDirection.OVERHEAD}
    for prompts in (bucket_prompts("a man", "", SD), mini):
        assert len({p.positive for p in prompts.values()}) == len(prompts)


@pytest.mark.parametrize("framing", list(Framing))
@pytest.mark.parametrize("direction", [ViewDirection.FRONT, ViewDirection.SIDE, ViewDirection.BACK])
def test_the_packaged_priors_prompts_end_as_its_captions_do(framing, direction):
    prompt = bucket_prompts("a man.", "", PromptConfig())[Bucket(framing, direction)]
    assert prompt.positive == "a man" + view_suffix(framing, direction)


def test_the_packaged_priors_negative_prompt_is_the_caption_of_its_degraded_images():
    assert PriorConfig().prompts.negative == ", ".join(NEGATIVE_WORDS)


def test_stable_diffusion_reads_the_view_first_and_no_face_on_the_back():
    assert seen_as(views([0, 180]), SD) == ["body/front", "body/back"]
    prompts = bucket_prompts("an old man", "blurry", SD)
    front, back = (prompts[Bucket(Framing.BODY, side)] for side in (ViewDirection.FRONT, ViewDirection.BACK))
    assert front.positive == "front view, full body, an old man"
    assert back.positive == "back view of a person from behind, back of the head, full body, an old man"
    assert (front.negative, back.negative) == ("blurry", "face, eyes, blurry")


def test_suffix_and_default_negative():
    config = PromptConfig(style=PromptStyle.sd, suffix="plain studio background", negative="ugly")
    prompt = bucket_prompts("a man", "", config)[Bucket(Framing.HEAD, ViewDirection.FRONT)]
    assert prompt.positive == "front view, close-up of the head, a man, plain studio background"
    assert prompt.negative == "ugly"


@pytest.mark.parametrize("style", list(PromptStyle))
def test_without_view_words_all_sides_of_a_framing_share_one_prompt(style):
    config = PromptConfig(style=style, view_words=False)
    prompts = bucket_prompts("a man", "blurry", config)
    assert prompts.keys() == bucket_prompts("a man", "blurry", PromptConfig(style=style)).keys()
    for framing, words in ((Framing.BODY, "full body"), (Framing.HEAD, "close-up of the head")):
        sides = {prompt for bucket, prompt in prompts.items() if bucket.framing is framing}
        assert len(sides) == 1
        said = sides.pop()
        assert words in said.positive and "a man" in said.positive and "view" not in said.positive
        assert said.negative == "blurry", "no words against a face on the back either"


def test_custom_prior_needs_a_path():
    with pytest.raises(UserError, match=r"prior\.path"):
        PriorConfig(name="custom")


@pytest.mark.parametrize("scale", [-1.0, math.nan, 1e9])
def test_absurd_control_scale(scale):
    with pytest.raises(UserError, match="control_scale"):
        PriorConfig(control_scale=scale)
