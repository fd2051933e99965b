import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.methods.de_sds import DeSdsConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, draw_times

U = torch.linspace(0, 0.999, 50)


def times(progress, uniform=U, **options):
    return draw_times(ScheduleConfig(**{"kind": ScheduleKind.sqrt_annealed, **options}), progress, uniform, 1000)


def test_sqrt_annealing_ends_and_third():
    assert set(times(0.0).tolist()) == {980}
    assert set(times(1.0).tolist()) == {20}
    # two thirds through, a third of the run is left below t = 200
    assert times(0.66).unique().item() == pytest.approx(200, abs=2)
    assert times(0.25).unique().item() == 500


def test_floor_and_jitter():
    assert set(times(1.0, floor=0.1).tolist()) == {100}
    jittered = times(0.25, jitter=0.05)
    assert jittered.min() == 450 and jittered.max() == pytest.approx(550, abs=2)
    assert times(1.0, jitter=0.05).min() == 20
    assert times(0.0, jitter=0.05).max() == 980


def test_linear_annealing():
    assert [times(p, kind=ScheduleKind.linear, t_min=0.25)[0].item() for p in (0.0, 0.5, 1.0)] == [980, 615, 250]


def test_two_stages():
    options = {"kind": ScheduleKind.two_stage, "late": 0.2, "t_max_late": 0.5}
    assert times(0.19, **options).max() > 900
    late = times(0.2, **options)
    assert late.min() == 20 and 480 < late.max() <= 500


def test_uniform_covers_its_range_at_any_time():
    for progress in (0.0, 1.0):
        drawn = times(progress, kind=ScheduleKind.uniform)
        assert drawn.min() == 20 and drawn.max() == pytest.approx(979, abs=1)


@given(st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 0.99), st.sampled_from(list(ScheduleKind)))
def test_timesteps_are_those_of_the_prior(progress, floor, jitter, kind):
    drawn = times(progress, kind=kind, floor=floor, jitter=jitter, t_max=1.0, t_min=0.0)
    assert drawn.dtype is torch.int64 and drawn.min() >= 0 and drawn.max() <= 999


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ScheduleConfig(t_min=0.9, t_max=0.1), "t_min=0.9, t_max=0.1"),
        (lambda: ScheduleConfig(t_max=980.0), "t_max=980"),
        (lambda: ScheduleConfig(jitter=-0.1), "jitter"),
        (lambda: GuidanceConfig(cfg_scale=-1.0), "cfg_scale"),
        (lambda: GuidanceConfig(cfg_scale=float("nan")), "cfg_scale"),
        (lambda: GuidanceConfig(cfg_rescale=2.0), "cfg_rescale"),
        (lambda: GuidanceConfig(clip=-1.0), "clip"),
        (lambda: DeSdsConfig(update_every=0), "update_every"),
        (lambda: DeSdsConfig(warmup=1.0), "warmup"),
        (lambda: DeSdsConfig(learning_rate=float("nan")), "learning_rate"),
        (lambda: DeSdsConfig(norm_band=0.0), "norm_band"),
    ],
)
def test_out_of_range_settings_are_a_one_line_error(make, word):
    with pytest.raises(UserError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)
