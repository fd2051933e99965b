"""The peak of memory of each phase, measured on this process."""

import torch

from avatar_gs.lab.benchmarks.phases import PeakMeter, measure_phases
from tests.training.conftest import ColorPrior, small_settings


def test_a_phases_peak_does_not_include_other_phases(body):
    """Also after one that held more."""
    meter = PeakMeter(torch.device("cpu"))
    for phase, size in (("large", 300), ("small", 0), ("large", 0)):
        with meter(phase):
            torch.ones(size * 2**18)
    assert meter.peaks["large"]["host"] - meter.peaks["small"]["host"] > 200


def test_every_phase_of_a_run_is_measured(body):
    settings = small_settings(steps=20)
    peaks = measure_phases(settings, body, ColorPrior())
    assert list(peaks) == ["prompts", "scenes", "step", "densify", "preview"]
    settings.guidance.method = "de_sds"
    settings.guidance.de_sds.warmup = 0.2
    peaks = measure_phases(settings, body, ColorPrior())
    assert list(peaks) == ["prompts", "scenes", "warm-up", "step", "densify", "preview"]
    assert all(sizes["host"] > 0 for sizes in peaks.values())
