"""Times a step of our guidance compared with one of GaussianIP's, on random weights.

    git clone https://github.com/silence-tang/GaussianIP /tmp/GaussianIP
    python tests/benchmarks/compare_with_gaussianip.py /tmp/GaussianIP --prior sd15 --batch 4

Of the methods for avatars from text, GaussianIP's guidance is the closest to ours: Stable Diffusion 1.5 and the
OpenPose ControlNet in every prediction. (HumanGaussian's has a network of its own, with a depth branch and no
ControlNet, and imports a module that diffusers no longer has.)

Both start from the same images and pose maps of 512² and end with the gradient on the pixels: VAE encoding, noise,
ControlNet, UNet, the loss and its backward pass. Steps alternate in one process. GaussianIP is MIT; no part of it is in
this project. Its ``__call__`` runs unchanged, with the settings of its configs/exp.yaml; only the loading of networks
(``configure``) and of the face (``prepare_for_sds``), both done once before the first step, are ours. Requirements that
its guidance imports but does not call in a step (tiny-cuda-nn, libigl, lightning, typeguard, insightface, einops) are
replaced by empty modules where they are not installed.

Compared are:

- ``GaussianIP`` computes three predictions (negative, text, null) and gives the face to the UNet by an IP-Adapter with
  LoRA of rank 128 in every attention, here with random weights and 4 random face tokens. Ours has words for a person,
  which cost nothing in a step. ``without IP-Adapter`` leaves the adapter out, and then calls the prior as our ``nfsd``
  does; ``with sds, …`` as our ``sds`` does.
- ``rescaled_de_sds``, the default of experiment=sd15, computes two predictions and learns y_con by a third, with a
  backward pass.

Remaining differences:

- Theirs computes the VAE in 16 bits on a GPU, ours in 32 (TF32).
- NFSD skips the negative prediction at low noise; theirs is timed at the noise of its first 700 steps.
- Theirs requests xFormers for VAE and ControlNet, which torch's attention replaces here; its adapter puts torch's into
  the UNet anyway. Its networks have the memory layout that they are loaded with, ours channels-last.
- GaussianIP knows SD 1.5 only; ``--prior sd21`` shows what its step would cost on 2.1.

Its loss is computed under autocast and scaled, as in its trainer (``precision: 16-mixed``): its target is float32 and
its latents are not. Its renderer, optimisers and refinement are not timed. NOT YET RUN TO ITS END ON A GPU by us: only
on a CPU, with ``--few-channels``, in 16 bits too (``GAUSSIANIP=/tmp/GaussianIP pytest tests/benchmarks``).
"""

import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

from avatar_gs.prior.loading.components import quiet
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests.benchmarks.comparison import NEGATIVE, PROMPT, Side, as_trained, command, networks_of, ours
from tests.benchmarks.threestudio_fork import import_guidance

ABSENT = (
    *("insightface.app", "insightface.utils", "einops.layers.torch", "cv2", "scipy.optimize"),
    *(f"diffusers.pipelines.controlnet.{name}" for name in ("MultiControlNetModel", "multicontrolnet")),
)
FACE_TOKENS = 4
MODULE = "ipa_guidance"


def main() -> None:
    command(__doc__, "GaussianIP", MODULE, "sd15", sides)


def sides(checkout: Path, prior: StableDiffusionPrior, batch: int) -> dict[str, Side]:
    """The compared sides by name."""
    modules = import_guidance(checkout, "GaussianIP", MODULE, prior.device, ABSENT)
    settings = read_settings(checkout)
    gaussianip = partial(theirs, *modules, prior, batch)
    return {
        "GaussianIP": gaussianip(settings),
        "GaussianIP without IP-Adapter": gaussianip(settings, adapter=False),
        "GaussianIP with sds, without IP-Adapter": gaussianip(settings | {"use_anpg": False}, adapter=False),
        "ours, nfsd": ours(prior, batch, "nfsd"),
        "ours, sds": ours(prior, batch, "sds"),
        "ours, rescaled_de_sds": ours(prior, batch, "rescaled_de_sds"),
    }


def theirs(
    module: ModuleType,
    prompts: ModuleType,
    prior: StableDiffusionPrior,
    batch: int,
    settings: dict[str, Any],
    *,
    adapter: bool = True,
) -> Side:
    """GaussianIP's ``ipa-guidance`` with the weights of ``prior``."""
    fitting = {"half_precision_weights": prior.denoiser.dtype is torch.float16, "batch_size": batch}
    guidance = build(module, prior, settings | fitting, adapter=adapter)
    utils = text_of(prompts, prior)
    pose_maps = torch.rand(batch, prior.image_size, prior.image_size, 3, device=prior.device)
    nowhere = torch.zeros(batch, device=prior.device)
    views = dict.fromkeys(("elevation", "azimuth", "center", "camera_distances"), nowhere)

    def loss(images: Tensor) -> Tensor:
        return guidance(0, images, pose_maps, utils, True, nowhere, **views)["loss_sds"]

    return Side(as_trained(loss, prior), networks_of(guidance))


def read_settings(checkout: Path) -> dict[str, Any]:
    """The guidance settings of GaussianIP's published configuration."""
    file = checkout / "configs" / "exp.yaml"
    if not file.is_file():
        raise SystemExit(f"{checkout}: no checkout of GaussianIP: expected its settings in {file}")
    return yaml.safe_load(file.read_text(encoding="utf-8"))["system"]["guidance"]


def build(module: ModuleType, prior: StableDiffusionPrior, settings: dict[str, Any], *, adapter: bool) -> Any:
    """Their guidance with copies of the networks of ``prior`` in place of downloaded ones."""

    class Guidance(module.StableDiffusionGuidance):
        def configure(self) -> None:
            self.weights_dtype = prior.denoiser.dtype
            self.scheduler = prior.scheduler
            self.alphas = prior.scheduler.alphas_cumprod.to(self.device)
            self.vae, self.unet, self.controlnet = (
                copied(network, prior) for network in (prior.vae, prior.unet, prior.controlnet)
            )
            if adapter:
                add_face_adapter(module, self.unet, prior, self.cfg.ipa_faceid_scale)
            self.ahds_chosen_t_all = [799]  # as in their first step
            face = (self.cfg.batch_size, FACE_TOKENS if adapter else 0, prior.text_width)
            self.pos_image_embeds = torch.randn(face, device=self.device, dtype=self.weights_dtype)
            self.neg_image_embeds = torch.randn_like(self.pos_image_embeds)
            self.null_image_embeds = torch.randn_like(self.pos_image_embeds)

    return Guidance(settings)


def copied(network: Any, prior: StableDiffusionPrior) -> Any:
    """A copy of a network as diffusers creates it, frozen, in the precision of the UNet."""
    with quiet(), prior.device:  # on a CPU, a billion random weights take longer than the steps
        fresh = type(network).from_config(network.config)
        fresh.load_state_dict(network.state_dict())
        return fresh.requires_grad_(False).eval().to(prior.device, prior.denoiser.dtype)


def add_face_adapter(module: ModuleType, unet: Any, prior: StableDiffusionPrior, scale: float) -> None:
    """Their untrained IP-Adapter of faces in the attentions of ``unet``; their code would put it on CUDA in 16 bits."""
    theirs = vars(module)["IPAdapterFaceIDPlus"]
    names = theirs.set_ip_adapter.__globals__
    processors = {name: names[name] for name in ("LoRAAttnProcessor", "LoRAIPAttnProcessor")}
    for name, processor in processors.items():
        names[name] = here(processor, prior)
    adapter: Any = theirs.__new__(theirs)
    adapter.pipe = SimpleNamespace(unet=unet)
    with quiet():
        adapter.set_ip_adapter()
    adapter.set_scale(scale)
    names.update(processors)
    unet.requires_grad_(False)


def here(module: Any, prior: StableDiffusionPrior) -> Any:
    """A subclass of a module type whose ``to`` always moves it to the prior's device and precision."""

    class Here(module):
        def to(self, *_: Any, **__: Any) -> Any:
            return super().to(prior.device, prior.denoiser.dtype)

    return Here


def text_of(prompts: ModuleType, prior: StableDiffusionPrior) -> Any:
    """One prompt for all views in the form of their prompt processor."""
    text, negative, null = prior.encode_prompts([PROMPT, NEGATIVE, ""]).detach().split(1)
    nothing = dict.fromkeys(prompts.PromptProcessorOutput.__dataclass_fields__)
    each_view = {"text_embeddings_vd": text, "uncond_text_embeddings_vd": negative, "directions": []}
    whole = {"text_embeddings": text, "uncond_text_embeddings": negative, "null_embeddings": null}
    return prompts.PromptProcessorOutput(**{**nothing, **whole, **each_view})


if __name__ == "__main__":
    main()
