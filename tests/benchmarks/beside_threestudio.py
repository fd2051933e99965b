"""Times a step of our guidance beside one of threestudio's DreamFusion-SD, on random weights of one architecture.

    git clone https://github.com/threestudio-project/threestudio /tmp/threestudio
    .venv/bin/python tests/benchmarks/beside_threestudio.py /tmp/threestudio --prior sd21 --batch 4

Both start from the same pictures of 512² and end with the gradient on their pixels: VAE encoding, noise, UNet, the loss
and its backward pass. Steps alternate in one process. threestudio is Apache-2.0; nothing of it is a part of this
project, and its guidance runs as it is. Its other requirements (tiny-cuda-nn, libigl, lightning, typeguard) are not
needed: where they are not installed, empty modules take their place, since its guidance calls nothing of them.

What remains different:

- Ours is told the pose by a ControlNet, in every prediction; theirs has none. ``sds`` of ours, without ControlNet, asks
  the prior for the same as theirs.
- ``rescaled_de_sds``, what experiment=sd21 chooses, learns y_con beside it: a third prediction, with a backward pass.
- Theirs encodes with the VAE in 16 bits, ours in 32 (TF32 on a GPU). Theirs also decodes a picture in every step.

NeRF, renderer and optimisers of theirs, which need tiny-cuda-nn and nerfacc, are not timed. NEVER RUN ON A GPU by us:
only on a CPU, with a few channels (``THREESTUDIO=/tmp/threestudio pytest tests/benchmarks`` does the same).
"""

import argparse
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from avatar_gs.device import choose_device
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import Method
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.presets import named_preset
from avatar_gs.prior.config import Precision, PriorConfig
from avatar_gs.prior.random_weights import random_prior
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

Step = Callable[[Tensor], None]
"""From pictures ``[B, H, W, 3]`` to the gradient on them."""
PROMPT, NEGATIVE, BUCKET = "a person", "blurry", "body/front"
WARM_UP = 2
OTHERS = ("tinycudann", "igl", "typeguard", "pytorch_lightning")
THEIRS = ("threestudio", "threestudio.models", "threestudio.models.guidance", "threestudio.models.prompt_processors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="threestudio's repository")
    parser.add_argument("--prior", choices=["sd15", "sd21"], default="sd21")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    precision = Precision.float16 if device == "cuda" else Precision.float32
    prior = random_prior(PriorConfig(name=options.prior, precision=precision), device)
    print(f"{options.prior} with random weights in {str(prior.dtype)[6:]}, {options.batch} pictures of 512², {device}")
    seconds = time_steps(steps(options.checkout, prior, options.batch), options.batch, prior.device, options.repeats)
    for name, each in seconds.items():
        print(f"{name:<44}{1e3 * each:>10.1f} ms{each / seconds['threestudio']:>8.2f} of threestudio's")


def steps(checkout: Path, prior: StableDiffusionPrior, batch: int) -> dict[str, Step]:
    """What is compared, by name."""
    return {
        "threestudio": theirs(checkout, prior, batch),
        "ours, sds without ControlNet": ours(prior, batch, Method.sds.name, control=False),
        "ours, sds": ours(prior, batch, Method.sds.name),
        "ours, rescaled_de_sds": ours(prior, batch, "rescaled_de_sds"),
    }


def time_steps(compared: dict[str, Step], batch: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds a step, by name; the steps alternate, so that a busy machine slows all."""
    pictures = torch.rand(batch, 512, 512, 3, generator=torch.Generator().manual_seed(0)).to(device)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for index in range(WARM_UP + repeats):
        for name, step in compared.items():
            leaf = pictures.clone().requires_grad_()
            began = _now(device)
            step(leaf)
            if index >= WARM_UP:
                seconds[name].append(_now(device) - began)
            assert leaf.grad is not None and bool(leaf.grad.any()), f"{name}: no gradient reached the pictures"
    return {name: median(each) for name, each in seconds.items()}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(prior: StableDiffusionPrior, batch: int, preset: str, *, control: bool = True) -> Step:
    """Encoding, guidance after its warm-up, and backward, as ``training.step`` does it."""
    config = named_preset(preset)
    conditions = TextConditions.encode(prior, {BUCKET: PROMPT}, {BUCKET: NEGATIVE})
    guidance = build_guidance(config, prior, conditions)
    pose_maps = torch.rand(batch, prior.image_size, prior.image_size, 3, device=prior.device) if control else None
    buckets, total = [BUCKET] * batch, 1000
    at = round(guidance.method.warmup * total) + 1

    def step(pictures: Tensor) -> None:
        random = torch.Generator().manual_seed(0)
        latents = prior.encode_images(pictures)
        out = guidance.step(latents, conditions.batch(buckets), pose_maps, buckets, at, total, random)
        out.loss.backward()

    return step


def theirs(checkout: Path, prior: StableDiffusionPrior, batch: int) -> Step:
    """threestudio's ``stable-diffusion-guidance`` on the weights of ``prior``, as configs/dreamfusion-sd.yaml sets
    it."""
    module, prompts = import_guidance(checkout, prior.device)
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
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        guidance = module.StableDiffusionGuidance(
            {
                "pretrained_model_name_or_path": folder,
                "half_precision_weights": prior.dtype is torch.float16,
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

    def step(pictures: Tensor) -> None:
        guidance(pictures, utils, angles, angles, angles)["loss_sds"].backward()

    return step


def import_guidance(checkout: Path, device: torch.device) -> tuple[ModuleType, ModuleType]:
    """The modules of threestudio's guidance and of its prompts, without its package's own beginning, which imports all
    of its NeRFs and renderers."""
    package = checkout / "threestudio"
    if not (package / "models" / "guidance" / "stable_diffusion_guidance.py").is_file():
        raise SystemExit(f"{checkout}: no checkout of threestudio: expected its guidance in {package}/models/guidance")
    for name in OTHERS:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            inner = ("pytorch_lightning.utilities", "pytorch_lightning.utilities.rank_zero")
            for part in (name, *(inner if name == "pytorch_lightning" else ())):
                sys.modules[part] = Absent(part)
    for name in THEIRS:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(checkout / name.replace(".", "/"))]
    top: Any = sys.modules["threestudio"]
    top.register = lambda name: lambda cls: cls
    top.info = top.warn = top.debug = lambda *_: None
    base: Any = importlib.import_module("threestudio.utils.base")
    base.get_device = lambda: device  # theirs knows CUDA only
    prompts = importlib.import_module("threestudio.models.prompt_processors.base")
    return importlib.import_module("threestudio.models.guidance.stable_diffusion_guidance"), prompts


class Absent(ModuleType):
    """Stands in for a module that is imported and not called: all that it holds are decorators that change nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda decorated=None, *_: decorated


if __name__ == "__main__":
    main()
