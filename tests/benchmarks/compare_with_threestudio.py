"""Times a step of our guidance compared with one of threestudio's DreamFusion-SD, on random weights.

    git clone https://github.com/threestudio-project/threestudio /tmp/threestudio
    python tests/benchmarks/compare_with_threestudio.py /tmp/threestudio --prior sd21 --batch 4

Both start from the same images of 512² and end with the gradient on their pixels: VAE encoding, noise, UNet, the loss
and its backward pass. Steps alternate in one process. threestudio is Apache-2.0; no part of it is in this project, and
its guidance runs unchanged. Requirements that its guidance imports but does not call (tiny-cuda-nn, libigl, lightning,
typeguard) are replaced by empty modules where they are not installed.

Remaining differences:

- Ours has a ControlNet for the pose in every prediction, theirs has none. Our ``sds`` without ControlNet calls the
  prior for the same predictions as theirs.
- ``rescaled_de_sds``, the default of experiment=sd21, also learns y_con: a third prediction, with a backward pass.
- Theirs encodes with the VAE in 16 bits, ours in 32 (TF32 on a GPU). Theirs also decodes an image in every step.

Their NeRF, renderer and optimisers, which need tiny-cuda-nn and nerfacc, are not timed. Their loss is computed under
autocast and scaled, as with ``precision: 16-mixed`` of their configuration. ``--few-channels`` is a test run on a CPU
(``THREESTUDIO=/tmp/threestudio pytest tests/benchmarks`` does the same).
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

from avatar_gs.prior.loading.components import quiet
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests.benchmarks.comparison import PROMPT, Side, as_trained, command, ours
from tests.benchmarks.threestudio_fork import import_guidance

MODULE = "stable_diffusion_guidance"


def main() -> None:
    command(__doc__, "threestudio", MODULE, "sd21", sides)


def sides(checkout: Path, prior: StableDiffusionPrior, batch: int) -> dict[str, Side]:
    """The compared sides by name."""
    return {
        "threestudio": theirs(checkout, prior, batch),
        "ours, sds without ControlNet": ours(prior, batch, "sds", control=False),
        "ours, sds": ours(prior, batch, "sds"),
        "ours, rescaled_de_sds": ours(prior, batch, "rescaled_de_sds"),
    }


def theirs(checkout: Path, prior: StableDiffusionPrior, batch: int) -> Side:
    """threestudio's ``stable-diffusion-guidance`` with the weights of ``prior`` and the settings of
    configs/dreamfusion-sd.yaml."""
    module, prompts = import_guidance(checkout, "threestudio", MODULE, prior.device)
    pipeline: Any = StableDiffusionPipeline(
        vae=prior.vae,
        text_encoder=prior.text_encoder,
        tokenizer=prior.tokenizer,
        unet=prior.unet,
        scheduler=prior.scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        pipeline.save_pretrained(folder)
        guidance = module.StableDiffusionGuidance(
            {
                "pretrained_model_name_or_path": folder,
                "half_precision_weights": prior.denoiser.dtype is torch.float16,
                "guidance_scale": 100.0,
                "weighting_strategy": "sds",
                "min_step_percent": 0.02,
                "max_step_percent": 0.98,
                "view_dependent_prompting": False,
            }
        )
    text, empty = prior.encode_prompts([PROMPT, ""]).detach().split(1)
    nothing = dict.fromkeys(prompts.PromptProcessorOutput.__dataclass_fields__)
    utils = prompts.PromptProcessorOutput(
        **{**nothing, "text_embeddings": text, "uncond_text_embeddings": empty, "use_perp_neg": False}
    )
    angles = torch.zeros(batch, device=prior.device)

    def loss(images: Tensor) -> Tensor:
        return guidance(images, utils, angles, angles, angles)["loss_sds"]

    vae = {"encoder": guidance.vae.encoder, "decoder": guidance.vae.decoder}
    return Side(as_trained(loss, prior), {"UNet": guidance.unet, **vae})


if __name__ == "__main__":
    main()
