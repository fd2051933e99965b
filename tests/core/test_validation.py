"""Ranges of settings."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Range, Section, bounded, check_interval


@dataclass
class Angles:
    fov_min: float = 40.0
    fov_max: float = 70.0


@dataclass
class Example(Section):
    section: ClassVar[str] = "example.part"
    steps: int = bounded(5, 1, 10)
    rate: float = bounded(0.5, 0, 1, above=True, below=True)
    free: float = 3.0


@given(st.integers(-20, 20))
def test_closed_bounds_belong_to_the_range(value):
    assert (value in Range(-3, 4)) == (-3 <= value <= 4)
    assert (value in Range(-3, 4, above=True, below=True)) == (-3 < value < 4)
    assert (value in Range(low=2)) == (value >= 2) and (value in Range(high=2)) == (value <= 2)


def test_nan_is_in_no_range():
    nan = float("nan")
    assert all(nan not in allowed for allowed in (Range(), Range(0), Range(0, 1)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "example.part.steps=0: expected 1 to 10"),
        ({"steps": 11}, "example.part.steps=11: expected 1 to 10"),
        ({"rate": 0.0}, "example.part.rate=0.0: expected more than 0, less than 1"),
        ({"rate": float("nan")}, "example.part.rate=nan: expected more than 0, less than 1"),
    ],
)
def test_the_error_names_override_value_and_range(values, message):
    with pytest.raises(UserError) as error:
        Example(**values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (Range(0), "0 or more"),
        (Range(0, above=True), "more than 0"),
        (Range(high=3), "at most 3"),
        (Range(0, 1, above=True), "more than 0, at most 1"),
        (Range(0, 1, below=True), "0, less than 1"),
        (Range(0, 1, expected="a fraction of the run"), "a fraction of the run"),
    ],
)
def test_a_range_describes_itself(bounds, text):
    assert str(bounds) == text


def test_it_is_a_structured_config():
    config = OmegaConf.merge(OmegaConf.structured(Example), {"steps": 7})
    assert OmegaConf.to_object(config) == Example(steps=7)


def test_an_interval_lies_in_its_bounds_and_is_not_empty():
    check_interval(Angles(), "cameras", "fov", 5, 120, "degrees")
    check_interval(Angles(5, 120), "cameras", "fov", 5, 120)
    check_interval(Angles(0.1, 1e9), "cameras", "fov", 0, above=True)
    for values in ((4, 70), (40, 121), (70, 40), (float("nan"), 70), (40, float("nan"))):
        with pytest.raises(UserError) as error:
            check_interval(Angles(*values), "cameras", "fov", 5, 120, "degrees")
        found = f"cameras.fov_min/fov_max={values[0]}/{values[1]}"
        assert str(error.value) == f"{found}: expected 5 <= min <= max <= 120 degrees"
    with pytest.raises(UserError, match=r"expected 0 < min <= max$"):
        check_interval(Angles(0, 1), "cameras", "fov", 0, above=True)
