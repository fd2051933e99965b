"""Every scheduler's configuration gives the noise that its model was trained with, and never clips latents."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.prior.config import Prediction
from avatar_gs.prior.schedule import noise_schedule
from tests.prior.loading import load

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLASSES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def saved(cls, folder, **settings):
    """What diffusers writes for a scheduler of this class."""
    getattr(diffusers, cls)(**settings).save_config(folder)
    return json.loads((folder / "scheduler_config.json").read_text())


def alphas_cumprod(start=0.00085, end=0.012, power=0.5):
    """In float64, from the definition."""
    betas = torch.linspace(start**power, end**power, 1000, dtype=torch.float64) ** (1 / power)
    return (1 - betas).cumprod(0).float()


def samples(prior):
    return prior.sample(["a red man"], [""], None, 4, 4.0, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("cls", CLASSES)
def test_the_noise_is_the_checkpoints_and_the_sampler_is_ours(cls, tmp_path):
    schedule = noise_schedule(saved(cls, tmp_path, **SD))
    torch.testing.assert_close(schedule.alphas_cumprod, alphas_cumprod(), atol=2e-6, rtol=1e-4)
    assert not schedule.config.clip_sample and not schedule.config.thresholding
    assert schedule.config.timestep_spacing == "leading"


@pytest.mark.parametrize("cls", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"])
def test_samples_equal_those_with_stable_diffusions_scheduler(cls, folder, original):
    expected = samples(load(original))
    (folder / "scheduler" / "scheduler_config.json").unlink()
    content = saved(cls, folder / "scheduler", **SD)
    assert "clip_sample" not in content
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(content | {"steps_offset": 1}))
    prior = load(folder)
    assert torch.equal(samples(prior), expected)
    prior.scheduler = DDIMScheduler.from_config(content)  # what diffusers makes of it
    assert not torch.allclose(samples(prior), expected, atol=1e-3)


def test_missing_fields_have_the_defaults_of_the_configurations_class():
    linear = noise_schedule({"_class_name": "PNDMScheduler"})
    torch.testing.assert_close(linear.alphas_cumprod, alphas_cumprod(0.0001, 0.02, 1.0), atol=2e-6, rtol=1e-4)
    lcm = noise_schedule({"_class_name": "LCMScheduler"})
    torch.testing.assert_close(lcm.alphas_cumprod, alphas_cumprod(), atol=2e-6, rtol=1e-4)
    assert lcm.config.steps_offset == 1 and not lcm.config.set_alpha_to_one, "as Stable Diffusion has it"
    own = noise_schedule({"_class_name": "DDIMScheduler", **SD, "steps_offset": 0, "set_alpha_to_one": True})
    assert own.config.steps_offset == 0 and own.config.set_alpha_to_one, "said, so kept"


def test_latents_are_not_clipped_even_if_a_configuration_asks_for_it(tmp_path):
    said = saved("DDIMScheduler", tmp_path, **SD, clip_sample=True, thresholding=True)
    schedule = noise_schedule(said)
    schedule.set_timesteps(10)
    sample = torch.full((1, 4, 2, 2), 3.0)
    clean = schedule.step(torch.zeros_like(sample), schedule.timesteps[5], sample).pred_original_sample
    assert clean.min() > 3.0


@pytest.mark.parametrize("cls", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_no_signal_in_the_last_step(cls, tmp_path):
    """Zero terminal SNR (Lin et al. 2024): their rescaling, and sampling that begins at the last step."""
    said = saved(cls, tmp_path, **SD, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule = noise_schedule(said)
    root = alphas_cumprod().double().sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    torch.testing.assert_close(schedule.alphas_cumprod.double(), expected, atol=1e-5, rtol=1e-3)
    schedule.set_timesteps(10)
    assert int(schedule.timesteps[0]) == 999 and schedule.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "flow matching"),
        ("FlowMatchHeunDiscreteScheduler", {}, "flow matching"),
        (
            "DPMSolverMultistepScheduler",
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
            "flow matching",
        ),
        ("EDMEulerScheduler", {}, "has no beta_start"),
        ("IPNDMScheduler", {}, "has no beta_start"),
        ("DDPMScheduler", {"beta_schedule": "sigmoid"}, "not understood"),
        ("CogVideoXDDIMScheduler", {}, "not understood"),
    ],
)
def test_other_noise_is_refused(cls, settings, words, tmp_path):
    with pytest.raises(UserError) as caught:
        noise_schedule(saved(cls, tmp_path, **settings), "x/scheduler")
    message = str(caught.value)
    assert words in message and "x/scheduler" in message and "\n" not in message


def test_a_flow_matching_folder_is_refused_in_one_line(folder):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    saved("FlowMatchEulerDiscreteScheduler", folder / "scheduler")
    with pytest.raises(UserError, match=r"scheduler: its FlowMatchEulerDiscreteScheduler is made for flow matching"):
        load(folder)


def test_a_unet_of_noise_with_stated_velocities_is_an_error(tmp_path):
    """The packaged prior's trained UNet with a scheduler of velocities."""
    folder = shutil.copytree(MINI_PRIOR, tmp_path / "mini")
    file = folder / "scheduler" / "scheduler_config.json"
    load(folder)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    with pytest.raises(UserError, match=r"says prediction_type=v_prediction.*predicts the noise: prior.prediction=eps"):
        load(folder)
    assert load(folder, prediction=Prediction.epsilon).prediction_type == "epsilon"
    assert load(folder, prediction=Prediction.v_prediction).prediction_type == "v_prediction", "the user insists"


def test_a_unet_that_seems_to_predict_velocities_is_warned_of(folder, caplog):
    load(folder)  # random weights, which say nothing of the noise
    (line,) = [record.getMessage() for record in caplog.records if "prior.prediction" in record.getMessage()]
    assert "says prediction_type=epsilon" in line and "try prior.prediction=v_prediction" in line
    caplog.clear()
    load(folder, prediction=Prediction.epsilon)
    assert not caplog.records
