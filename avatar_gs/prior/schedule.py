"""The noise schedule of a checkpoint, and noise predictions from the outputs of its network.

A checkpoint's scheduler configuration holds the noise that the UNet was trained with and the settings of one sampler;
only the noise is used. ``DDIMScheduler``'s defaults for missing fields, such as clipping of samples to [-1, 1] and a
linear schedule, are wrong for latents: all fields are set here.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.errors import UserError, first_line

NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
"""Required fields."""
OPTIONAL_NOISE = {"trained_betas": None, "rescale_betas_zero_snr": False, "prediction_type": "epsilon"}
"""Optional fields and their meaning when absent."""
GRID = {"steps_offset": 1, "set_alpha_to_one": False}
"""DDIM's steps: the configuration's, or else Stable Diffusion's."""
FIXED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
"""Not from a checkpoint: latents have no range to clip to."""
TOLERANCE = 1e-4
"""Largest difference of alphas_cumprod between the checkpoint's scheduler and DDIM with the same betas."""


def noise_schedule(config: Mapping[str, Any], place: str = "scheduler", **changes: Any) -> DDIMScheduler:
    """DDIM with the noise schedule of any of diffusers' schedulers.

    Args:
        config: the content of a ``scheduler_config.json``.
        place: its name in messages.
        changes: fields that replace the configuration's, such as ``prediction_type``.

    Raises:
        UserError: if it is not of a diffusion model with betas (but flow matching or EDM), or DDIM's fields cannot
            express its noise.
    """
    name = str(config.get("_class_name") or "scheduler without a class name")
    own_class = getattr(diffusers, name, None)
    given = {**_defaults(own_class), **config, **changes}
    expected = "expected the noise schedule of Stable Diffusion 1.x or 2.x (beta_start, beta_end, beta_schedule)"
    flow = given.get("use_flow_sigmas") or str(given["prediction_type"]).startswith("flow")
    missing = [field for field in NOISE if given.get(field) is None]
    if flow or missing:
        found = "is made for flow matching" if flow or "Flow" in name else f"has no {', '.join(missing)}"
        raise UserError(
            f"prior: {place}: its {name} {found}: {expected}; Stable Diffusion 3, Flux and the like are not supported"
        )
    noise: dict[str, Any] = {field: given[field] for field in (*NOISE, *OPTIONAL_NOISE)}
    spacing = (
        "trailing" if noise["rescale_betas_zero_snr"] else "leading"
    )  # no signal at the last timestep: start there
    try:
        grid: dict[str, Any] = {field: config.get(field, default) for field, default in GRID.items()}
        schedule = DDIMScheduler(**noise, **grid, **FIXED, timestep_spacing=spacing)
        same = _same_noise(own_class, config, schedule)
    except (NotImplementedError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"prior: {place}: its noise schedule is not understood ({reason}): {expected}") from error
    if not same:
        raise UserError(f"prior: {place}: its {name} changes its betas, which is not understood: {expected}")
    return schedule


def _defaults(own_class: Any) -> dict[str, Any]:
    """Values of absent fields: the defaults of the class that wrote the configuration."""
    defaults: dict[str, Any] = dict(OPTIONAL_NOISE)
    if inspect.isclass(own_class):
        parameters = inspect.signature(own_class.__init__).parameters
        defaults |= {
            field: parameters[field].default
            for field in (*NOISE, *OPTIONAL_NOISE)
            if field in parameters and parameters[field].default is not inspect.Parameter.empty
        }
    return defaults


def _same_noise(own_class: Any, config: Mapping[str, Any], schedule: Any) -> bool:
    """Whether the checkpoint's own scheduler, if it can be made, has the same alphas_cumprod."""
    if not inspect.isclass(own_class) or own_class is DDIMScheduler:
        return True
    try:
        own: Any = getattr(own_class, "from_config")(dict(config))  # noqa: B009
    except ImportError:  # some need packages that are not installed here
        return True
    found = getattr(own, "alphas_cumprod", None)
    if found is None:
        return True
    return torch.allclose(torch.as_tensor(found).float(), schedule.alphas_cumprod, rtol=0, atol=TOLERANCE)


PREDICTION_TYPES = ("epsilon", "v_prediction")


def to_eps(
    prediction_type: str,
    output: Float[Tensor, "B c h w"],
    z_t: Float[Tensor, "B c h w"],
    alpha: Float[Tensor, "B 1 1 1"],
    sigma: Float[Tensor, "B 1 1 1"],
) -> Float[Tensor, "B c h w"]:
    """The noise prediction of a network's output, for z_t = alpha z + sigma eps.

    v_prediction: v = alpha eps - sigma z, alpha^2 + sigma^2 = 1, so eps = alpha v + sigma z_t (Salimans and Ho 2022).
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha * output + sigma * z_t
    raise ValueError(f"prediction_type={prediction_type}: expected one of {', '.join(PREDICTION_TYPES)}")
