# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import copy

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import Precision, PriorConfig
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.prior.two_text_encoders import TwoTextEncoders
from tests import tiny

FAMILIES = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: tiny.save_prior(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def priors(folders):
    return {family: load_prior(PriorConfig(name="custom", path=str(folder))) for family, folder in folders.items()}


def inputs(prior, batch=3):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE, generator=generator)
    control = torch.rand(batch, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=generator)
    return latents, prior.encode_prompts(["a red man", "a woman", ""][:batch]), control


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes(priors, family):
    prior = priors[family]
    assert (prior.image_size, prior.latent_size, prior.latent_channels) == (tiny.IMAGE_SIZE, tiny.LATENT_SIZE, 4)
    assert (prior.token_length, prior.num_timesteps) == (tiny.TOKEN_LENGTH, 1000)
    latents = prior.encode_images(torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3))
    assert latents.shape == (2, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE)
    assert prior.decode_latents(latents).shape == (2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)


def test_alpha_and_sigma_are_the_schedulers(priors):
    prior, t = priors["sd15"], torch.arange(0, 1000, 111)
    torch.testing.assert_close(prior.alpha(t) ** 2, prior.scheduler.alphas_cumprod[t])
    torch.testing.assert_close(prior.alpha(t) ** 2 + prior.sigma(t) ** 2, torch.ones(len(t)))
    cut = float(prior.sigma(torch.tensor([200])) / prior.alpha(torch.tensor([200])))
    assert cut == pytest.approx(0.57, abs=0.01)  # DE-SDS's t < 200, as guidance writes it


def test_v_and_epsilon_agree(priors, monkeypatch):
    """An epsilon network, and the same predictions expressed as v = alpha eps - sigma z0, give one and the same eps."""
    eps_prior, v_prior = priors["sd15"], copy.copy(priors["sd15"])
    v_prior.denoiser = copy.copy(eps_prior.denoiser)
    v_prior.denoiser.prediction_type = "v_prediction"
    z_t, cond, control = inputs(eps_prior)
    t = torch.tensor([5, 300, 980])
    eps = eps_prior.eps(z_t, t, cond, control)
    z_t = z_t.double()
    alpha, sigma = eps_prior.alpha(t).double()[:, None, None, None], eps_prior.sigma(t).double()[:, None, None, None]
    v = alpha * eps - sigma * (z_t - sigma * eps) / alpha
    monkeypatch.setattr(v_prior.denoiser, "predict", lambda *arguments: v)
    torch.testing.assert_close(v_prior.eps(z_t, t, cond, control), eps.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("t", [5, 300, 980])
def test_the_v_prediction_means_what_diffusers_means(priors, t):
    """Our eps of SD 2.1's raw output implies the clean image that diffusers' scheduler reads from it."""
    prior = priors["sd21"]
    z_t, cond, control = inputs(prior)
    times = torch.full((3,), t)
    scheduler = DDIMScheduler.from_config(prior.scheduler.config)
    scheduler.set_timesteps(50)
    theirs = scheduler.step(prior.denoiser.predict(z_t, times, cond, control), t, z_t).pred_original_sample
    alpha, sigma = prior.alpha(times)[:, None, None, None], prior.sigma(times)[:, None, None, None]
    torch.testing.assert_close(alpha * theirs + sigma * prior.eps(z_t, times, cond, control), z_t, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_equals_singles(priors, family):
    prior = priors[family]
    z_t, cond, control = inputs(prior)
    t = torch.tensor([20, 500, 900])
    before = prior.calls
    together = prior.eps(z_t, t, cond, control)
    assert prior.calls - before == 3
    alone = torch.cat([prior.eps(z_t[i : i + 1], t[i : i + 1], cond[i : i + 1], control[i : i + 1]) for i in range(3)])
    assert prior.calls - before == 6
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_control_and_its_scale_matter(priors, folders):
    prior = priors["sd15"]
    z_t, cond, control = inputs(prior)
    t = torch.tensor([400, 400, 400])
    without = prior.eps(z_t, t, cond, None)
    assert (prior.eps(z_t, t, cond, control) - without).abs().max() > 1e-3
    silent = load_prior(PriorConfig(name="custom", path=str(folders["sd15"]), control_scale=0.0))
    torch.testing.assert_close(silent.eps(z_t, t, cond, control), without)


def test_gradients_reach_images_and_conditions_but_no_weights(priors):
    prior = priors["sd15"]
    images = torch.rand(1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, requires_grad=True)
    prior.encode_images(images).sum().backward()
    assert images.grad.abs().sum() > 0
    z_t, cond, control = inputs(prior, 1)
    cond = cond.clone().requires_grad_(True)
    prior.eps(z_t, torch.tensor([400]), cond, control).square().sum().backward()
    assert cond.grad.abs().sum() > 0
    networks = (prior.unet, prior.controlnet, prior.vae, prior.text_encoder)
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_encoding_averages_larger_images_down(priors):
    prior = priors["sd15"]
    small = torch.rand(1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)
    large = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(prior.encode_images(large), prior.encode_images(small), atol=1e-5, rtol=1e-4)


def diffusers_samples(prior, prompts, negatives, control, **settings):
    """Samples of diffusers' pipeline with a prior's parts, from the noise of seed 7 in 6 steps."""
    parts = {
        "vae": prior.vae,
        "text_encoder": prior.text_encoder,
        "tokenizer": prior.tokenizer,
        "unet": prior.unet,
        "controlnet": prior.controlnet,
        "scheduler": DDIMScheduler.from_config(prior.scheduler.config),
        "feature_extractor": None,
    }
    if isinstance(prior.prompt_encoder, TwoTextEncoders):
        second = prior.prompt_encoder.second
        parts |= {"text_encoder_2": second.text_encoder, "tokenizer_2": second.tokenizer}
        pipeline = StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False)
    else:
        pipeline = StableDiffusionControlNetPipeline(**parts, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    shape = (len(prompts), 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE)
    images = pipeline(
        prompts,
        image=control.permute(0, 3, 1, 2),
        negative_prompt=negatives,
        num_inference_steps=6,
        latents=torch.randn(shape, generator=torch.Generator().manual_seed(7)),
        height=tiny.IMAGE_SIZE,
        width=tiny.IMAGE_SIZE,
        output_type="pt",
        **settings,
    ).images
    return images.permute(0, 2, 3, 1)


def random_control():
    return torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_equal_diffusers_pipeline(priors, family):
    prior = priors[family]
    prompts, negatives, control = ["a red man, front view", "a woman"], ["blue", "head"], random_control()
    theirs = diffusers_samples(prior, prompts, negatives, control, guidance_scale=4.0)
    calls = prior.calls
    ours = prior.sample(prompts, negatives, control, 6, 4.0, torch.Generator().manual_seed(7))
    assert prior.calls - calls == 6 * 2 * 2
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_samples_that_are_not_finite_are_an_error_and_no_black_image(priors, monkeypatch):
    prior = priors["sd15"]
    monkeypatch.setattr(prior.denoiser, "predict", lambda z_t, *others: torch.full_like(z_t, float("nan")))
    with pytest.raises(UserError, match=r"samples are NaN or infinite.*prior\.precision"):
        prior.sample(["a man"], [""], None, 2, 4.0, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_pose_guidance_equals_diffusers_guidance_between_no_map_and_the_map(priors, family, monkeypatch):
    """Its ``guess_mode`` shows the map to the prompt and not to the negative one. With both alike, and without the
    mode's weakening of the deeper layers, what it guides by is the map alone."""
    prior = priors[family]
    prompts, control = ["a red man, front view", "a woman"], random_control()
    ours = prior.sample(prompts, prompts, control, 6, 4.0, torch.Generator().manual_seed(7), pose_scale=3.0)
    plain = prior.sample(prompts, prompts, control, 6, 4.0, torch.Generator().manual_seed(7))
    forward = prior.controlnet.forward

    def at_full_strength(*args, guess_mode, **named):
        return forward(*args, **named)

    monkeypatch.setattr(prior.controlnet, "forward", at_full_strength)
    theirs = diffusers_samples(prior, prompts, prompts, control, guidance_scale=3.0, guess_mode=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-3


def test_guidance_on_the_pose_map_needs_one(priors):
    with pytest.raises(ValueError, match="without pose maps"):
        priors["sd15"].sample(["a man"], [""], None, 1, pose_scale=2.0)


def test_bfloat16_networks_return_float32(folders):
    prior = load_prior(PriorConfig(name="custom", path=str(folders["sd15"]), precision=Precision.bfloat16))
    assert prior.unet.dtype is torch.bfloat16 and prior.vae.dtype is torch.float32
    z_t, cond, control = inputs(prior)
    eps = prior.eps(z_t, torch.tensor([10, 400, 900]), cond, control)
    assert eps.dtype is torch.float32 and eps.isfinite().all()


def test_parts_that_do_not_fit_are_named(tmp_path, folders):
    config = PriorConfig(name="custom", path=str(folders["sd15"]), controlnet=str(folders["sd21"] / "controlnet"))
    with pytest.raises(UserError, match=r"text of different widths.*UNet 16, ControlNet 24"):
        load_prior(config)
    parts = tiny.parts(tmp_path, prediction_type="sample")
    with pytest.raises(UserError, match=r"prediction_type=sample.*epsilon or v_prediction"):
        StableDiffusionPrior(Parts(**parts))


def test_loading_prints_nothing(folders, capfd):
    load_prior(PriorConfig(name="custom", path=str(folders["sd21"])))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
