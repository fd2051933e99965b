"""Figures of made-up records, against numbers worked out by hand."""

import pytest

from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.metrics.colours import PartView, wilson_lower_bound
from avatar_gs.lab.suites.colours import ColoursRecord, Variant, controls_table, part_figures, summarise
from avatar_gs.lab.suites.parts import expected_parts
from avatar_gs.lab.world.vocabulary import CLOTHES, SHADING

GREY = [0.5, 0.5, 0.5]


def shown(name: str) -> list[float]:
    return [value / 255 * SHADING for value in CLOTHES[name]]


def views(*names: str) -> list[PartView]:
    """Full body from the front and from the back, and the close-up: each all of one colour."""
    where = [("body", "front"), ("body", "back"), ("upper", "front")]
    return [PartView(*place, 10, {name: 10}, shown(name)) for place, name in zip(where, names, strict=True)]


def record(
    variant: Variant, prompt: str, shirt: tuple[str, ...], asked: str, seed: int = 0, **parts: str
) -> ColoursRecord:
    """``parts``: what other parts are asked for; they are shown so from everywhere."""
    end = {"shirt": views(*shirt)} | {part: views(*[name] * 3) for part, name in parts.items()}
    start = {part: views(*["grey"] * 3) for part in end}
    metrics = {
        "steps": 5,
        "splats": 100 + seed,
        "seconds_per_step": {"render": 0.1, "total": 0.3},
        "peak_memory_mib": {"host": 900.0 + seed},
    }
    wanted = {"shirt": asked} | parts
    volumes = {"skirt": (30, 60)}
    return ColoursRecord(
        variant,
        prompt,
        seed,
        wanted,
        start=Measurement(start, {"skirt": (0, 50)}, 0.0),
        end=Measurement(end, volumes, 0.01 * (1 + seed)),
        metrics=metrics,
        seconds=10.0 + seed,
    )


def test_part_figures():
    some = [
        record(Variant.AVATAR, "a", ("red", "red", "red"), "red"),
        record(Variant.AVATAR, "b", ("blue", "green", "blue"), "blue"),
    ]
    figures = part_figures([item for one in some for item in expected_parts(one.end, one.asked, ["shirt"])])
    assert figures["every_view"] == 0.5 and figures["wilson"] == wilson_lower_bound(1, 2)
    assert figures["worst_view"] == {"view": "body/back", "fraction": 0.5}
    assert figures["all_views"] == pytest.approx(5 / 6) and figures["full_body"] == 0.75 and figures["close_up"] == 1.0
    assert figures["pixels"] == pytest.approx(5 / 6)
    assert figures["delta_e"] == pytest.approx(0, abs=1e-6) and figures["chroma_ratio"] == pytest.approx(1)


def test_a_part_that_no_camera_sees_is_left_out():
    one = record(Variant.AVATAR, "a", ("red", "red", "red"), "red")
    one.end.parts["hair"] = []
    assert [item.part for item in expected_parts(one.end, {"shirt": "red", "hair": "black", "hat": "blue"})] == [
        "shirt"
    ]


def test_controls_fall_where_a_fake_would_not():
    red, blue = ("red",) * 3, ("blue",) * 3
    some = [
        record(Variant.AVATAR, "a", red, "red"),
        record(Variant.AVATAR, "b", blue, "blue"),
        record(Variant.NO_GUIDANCE, "a", ("grey",) * 3, "red"),
        record(Variant.RANDOM_WEIGHTS, "a", ("purple",) * 3, "red"),
        record(Variant.RED_BLUE, "c", red, "red", bottoms="blue"),
        record(Variant.RED_BLUE_EXCHANGED, "c", blue, "red", bottoms="blue"),
    ]
    some[-1].end.parts["bottoms"] = views("red", "red", "blue")
    rows = controls_table(some)
    right = {name: row["right"] for name, row in rows.items()}
    assert right == {
        "avatars": 1.0,
        "the controls' prompts": 1.0,
        "step 0": 0.0,
        "no guidance": 0.0,
        "random weights": 0.0,
        "swapped prompts": 0.0,
        "red and blue clothes": 1.0,
        "words exchanged: as asked": pytest.approx(1 / 6),
        "words exchanged: as exchanged": pytest.approx(5 / 6),
    }
    assert rows["avatars"]["chance"] == pytest.approx(1 / 12)
    assert rows["words exchanged: as exchanged"]["parts"] == {"shirt": 1.0, "bottoms": pytest.approx(2 / 3)}


def test_a_fake_that_ignores_its_prompt_shows_in_the_controls():
    """Avatars that are always red are right on red prompts, with any prior."""
    red = ("red",) * 3
    some = [record(Variant.AVATAR, "a", red, "red"), record(Variant.AVATAR, "b", red, "red")]
    some.append(record(Variant.RANDOM_WEIGHTS, "a", red, "red"))
    rows = controls_table(some)
    assert rows["random weights"]["right"] == rows["swapped prompts"]["right"] == 1.0


def test_one_prompt_cannot_be_swapped():
    rows = controls_table([record(Variant.AVATAR, "a", ("red",) * 3, "red", seed=seed) for seed in range(2)])
    assert set(rows) == {"avatars", "step 0"}


def test_summary():
    some = [record(Variant.AVATAR, prompt, ("red",) * 3, "red", seed=seed) for seed in range(2) for prompt in "ab"]
    some.append(record(Variant.NO_GUIDANCE, "a", ("grey",) * 3, "red"))
    figures = summarise(some)
    assert figures["parts"]["shirt"]["end"]["avatars"] == 4 and figures["parts"]["shirt"]["end"]["every_view"] == 1
    assert figures["parts"]["shirt"]["start"]["every_view"] == 0
    assert figures["volumes"] == {"skirt": {"avatars": 4, "iou": 0.5, "least": 0.5, "iou_start": 0.0}}
    assert figures["stray"] == {"mean": pytest.approx(0.015), "most": 0.02, "start": 0.0}
    assert figures["costs"]["splats"] == {"mean": 100.5, "most": 101} and figures["costs"]["peak_memory_mib"] == 901.0
    assert figures["costs"]["seconds_per_step"] == {"render": pytest.approx(0.1), "total": pytest.approx(0.3)}
    assert figures["wall_seconds"] == pytest.approx(10 + 10 + 11 + 11 + 10)
