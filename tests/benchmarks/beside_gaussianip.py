"""Times a step of our guidance beside one of GaussianIP's, on random weights of one architecture.

    git clone https://github.com/silence-tang/GaussianIP /tmp/GaussianIP
    python tests/benchmarks/beside_gaussianip.py /tmp/GaussianIP --prior sd15 --batch 4

Of the avatars from a text, GaussianIP's guidance is the nearest to ours: Stable Diffusion 1.5 and the ControlNet of
OpenPose, asked in every prediction. (HumanGaussian's asks a network of its own, with a branch for depth and no
ControlNet, and imports a module that diffusers no longer has.)

Both start from the same pictures and pose maps of 512² and end with the gradient on the pixels: VAE encoding, noise,
ControlNet, UNet, the loss and its backward pass. Steps alternate in one process. GaussianIP is MIT; nothing of it is a
part of this project. Its ``__call__`` runs as it is, with the settings of its configs/exp.yaml; only the loading of
networks (``configure``) and of the face (``prepare_for_sds``), both done once before the first step, are ours. What its
guidance imports and a step calls nothing of (tiny-cuda-nn, libigl, lightning, typeguard, insightface, einops) is not
needed: where it is not installed, empty modules take its place.

What is compared:

- ``GaussianIP`` asks for three predictions (negative, text, null) and tells the UNet a face by an IP-Adapter with LoRA
  of rank 128 in every attention, here with random weights and 4 random face tokens. Ours knows a person by words of its
  text, which cost nothing in a step. ``without IP-Adapter`` leaves the adapter out, and is then what our ``nfsd`` asks
  the prior for; ``with sds, …`` is what our ``sds`` asks for.
- ``rescaled_de_sds``, what experiment=sd15 chooses, asks for two predictions and learns y_con by a third, with a
  backward pass.

What remains different:

- Theirs computes the VAE in 16 bits on a GPU, ours in 32 (TF32).
- NFSD spares the negative prediction where there is little noise; theirs is timed at the noise of its first 700 steps.
- For its VAE and ControlNet theirs asks for xFormers, whose place torch's own attention takes here; its adapter puts
  torch's into the UNet in any case. Its networks have the memory layout that they are loaded in, ours channels-last.
- GaussianIP knows SD 1.5 only; ``--prior sd21`` says what its step would cost on 2.1.

Its loss is computed under autocast and scaled, as its own trainer (``precision: 16-mixed``) does it: its target is
float32 and its latents are not. Its renderer, optimisers and refinement are not timed. NOT YET RUN TO ITS END ON A GPU
by us: only on a CPU, with ``--few-channels``, in 16 bits too (``GAUSSIANIP=/tmp/GaussianIP pytest tests/benchmarks``).
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

from avatar_gs.prior.loading.components import Quiet
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests.benchmarks.side_by_side import NEGATIVE, PROMPT, Side, as_trained, command, networks_of, ours
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
    """What is compared, by name."""
    modules = import_guidance(checkout, "GaussianIP", MODULE, prior.device, ABSENT)
    settings = read_settings(checkout)
    gaussianip = partial(theirs, *modules, prior, batch)
    return {
        "GaussianIP": gaussianip(settings),
        "GaussianIP without IP-Adapter": gaussianip(settings, adapter=False),
        "GaussianIP with sds, without IP-Adapter": gaussianip(settings | {"use_anpg": False}, adapter=False),
        "ours, nfsd": ours(prior, batch, "nfsd".name),
        "ours, sds": ours(prior, batch, "sds".name),
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
    """GaussianIP's ``ipa-guidance`` on the weights of ``prior``."""
    fitting = {"half_precision_weights": prior.dtype is torch.float16, "batch_size": batch}
    guidance = build(module, prior, settings | fitting, adapter=adapter)
    utils = text_of(prompts, prior)
    pose_maps = torch.rand(batch, prior.image_size, prior.image_size, 3, device=prior.device)
    nowhere = torch.zeros(batch, device=prior.device)
    views = dict.fromkeys(("elevation", "azimuth", "center", "camera_distances"), nowhere)

    def loss(images: Tensor) -> Tensor:
        return guidance(0, images, pose_maps, utils, True, nowhere, **views)["loss_sds"]

    return Side(as_trained(loss, prior), networks_of(guidance))


def read_settings(checkout: Path) -> dict[str, Any]:
    """What the program that GaussianIP publishes sets of its guidance."""
    file = checkout / "configs" / "exp.yaml"
    if not file.is_file():
        raise SystemExit(f"{checkout}: no checkout of GaussianIP: expected its settings in {file}")
    return yaml.safe_load(file.read_text(encoding="utf-8"))["system"]["guidance"]


def build(module: ModuleType, prior: StableDiffusionPrior, settings: dict[str, Any], *, adapter: bool) -> Any:
    """Their guidance with copies of the networks of ``prior``, in place of those that it would download."""

    class Guidance(module.StableDiffusionGuidance):
        def configure(self) -> None:
            self.weights_dtype = prior.dtype
            self.scheduler = prior.scheduler
            self.alphas = prior.scheduler.alphas_cumprod.to(self.device)
            self.vae, self.unet, self.controlnet = (
                copied(network, prior) for network in (prior.vae, prior.unet, prior.controlnet)
            )
            if adapter:
                add_face_adapter(module, self.unet, prior, self.cfg.ipa_faceid_scale)
            self.ahds_chosen_t_all = [799]  # of their first step
            face = (self.cfg.batch_size, FACE_TOKENS if adapter else 0, prior.text_width)
            self.pos_image_embeds = torch.randn(face, device=self.device, dtype=self.weights_dtype)
            self.neg_image_embeds = torch.randn_like(self.pos_image_embeds)
            self.null_image_embeds = torch.randn_like(self.pos_image_embeds)

    return Guidance(settings)


def copied(network: Any, prior: StableDiffusionPrior) -> Any:
    """The same network as diffusers makes it, frozen, in the precision of the UNet."""
    with Quiet(), prior.device:  # made on a CPU, a billion random weights take longer than the steps
        fresh = type(network).from_config(network.config)
        fresh.load_state_dict(network.state_dict())
        return fresh.requires_grad_(False).eval().to(prior.device, prior.dtype)


def add_face_adapter(module: ModuleType, unet: Any, prior: StableDiffusionPrior, scale: float) -> None:
    """Their IP-Adapter of faces, untrained, in the attentions of ``unet``; its own code puts it on CUDA in 16 bits."""
    theirs = vars(module)["IPAdapterFaceIDPlus"]
    names = theirs.set_ip_adapter.__globals__
    kinds = {name: names[name] for name in ("LoRAAttnProcessor", "LoRAIPAttnProcessor")}
    for name, kind in kinds.items():
        names[name] = here(kind, prior)
    adapter: Any = theirs.__new__(theirs)
    adapter.pipe = SimpleNamespace(unet=unet)
    with Quiet():
        adapter.set_ip_adapter()
    adapter.set_scale(scale)
    names.update(kinds)
    unet.requires_grad_(False)


def here(kind: Any, prior: StableDiffusionPrior) -> Any:
    """The same kind of module, which goes to the prior's device and precision wherever it is sent."""

    class Here(kind):
        def to(self, *_: Any, **__: Any) -> Any:
            return super().to(prior.device, prior.dtype)

    return Here


def text_of(prompts: ModuleType, prior: StableDiffusionPrior) -> Any:
    """One prompt for every view, as their prompt processor hands it over."""
    text, negative, null = prior.encode_prompts([PROMPT, NEGATIVE, ""]).detach().split(1)
    nothing = dict.fromkeys(prompts.PromptProcessorOutput.__dataclass_fields__)
    each_view = {"text_embeddings_vd": text, "uncond_text_embeddings_vd": negative, "directions": []}
    whole = {"text_embeddings": text, "uncond_text_embeddings": negative, "null_embeddings": null}
    return prompts.PromptProcessorOutput(**{**nothing, **whole, **each_view})


if __name__ == "__main__":
    main()
