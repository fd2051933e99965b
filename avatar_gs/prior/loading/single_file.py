"""Single files (``.safetensors``, or pickles of plain tensors) in the original layout of Stable Diffusion 1.x and 2.x,
and of ControlNets and VAEs for them.

Such a file holds weights under the names of the first implementation (LDM), and no configuration. The configurations
are packaged (``layouts``: public facts of these architectures), diffusers' own converters translate the names, and
nothing is downloaded. The file has no tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError, create_diffusers_clip_model_from_ldm
from safetensors import safe_open
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import LAYOUTS
from avatar_gs.prior.denoiser import SIZES, pooled_width
from avatar_gs.prior.loading import lora
from avatar_gs.prior.loading.weight_files import as_safetensors, check_safetensors, is_pickle

WIDTHS = {768: "sd15", 1024: "sd21"}
"""The layout by the width of the UNet's text conditions."""
CONTROLNETS = {
    "sd15": "lllyasviel/control_v11p_sd15_openpose",
    "sd21": "thibaud/controlnet-sd21-openposev2-diffusers",
}
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
CROSS_ATTENTION = ".transformer_blocks.0.attn2.to_k.weight"
FIRST_CONVOLUTION = "input_blocks.0.0.weight"
TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
"""Either set of files is a whole tokenizer."""
V_LATENT_SIZE = 96
"""Of Stable Diffusion 2.x that predicts v: it was trained on images of 768²."""
PROBE_SIZE = 32
"""Side in latents of the noise that a UNet is probed with."""


def is_single_file(name: str) -> bool:
    """Whether ``name`` is a file of weights, not a folder or hub name."""
    file = Path(name).expanduser()
    return file.is_file() and (file.suffix == ".safetensors" or is_pickle(file))


def readable(file: Path) -> Path:
    """The file itself, or a safetensors copy of a pickled one.

    Raises:
        UserError: if it is damaged, or a pickle of more than tensors.
    """
    if is_pickle(file):
        return as_safetensors([file], f"{file.stem}.safetensors")
    check_safetensors(file)
    return file


def base_layout(file: Path, has_vae: bool, given: Path) -> str:
    """The layout, ``sd15`` or ``sd21``, of a complete checkpoint (with ``has_vae``, its VAE comes from elsewhere).

    ``given`` is the user's file, for messages.

    Raises:
        UserError: if it is no text-to-image Stable Diffusion 1.x or 2.x, or lacks a component.
    """
    shapes = _shapes(file, "prior.path", given)
    expected = "expected a full text-to-image checkpoint of Stable Diffusion 1.x or 2.x in its original layout"
    needed = [name for name in PREFIXES if not (name == "vae" and has_vae)]
    missing = [name for name in needed if not any(key.startswith(PREFIXES[name]) for key in shapes)]
    if missing:
        hint = "; give one with prior.vae=<folder, file or hub name>" if missing == ["vae"] else ""
        raise UserError(f"prior.path={given}: no weights of {', '.join(missing)} in it: {expected}{hint}")
    channels = shapes.get(PREFIXES["unet"] + FIRST_CONVOLUTION, [0, 0])[1]
    if channels != 4:
        raise UserError(
            f"prior.path={given}: its UNet reads {channels} channels (inpainting and the like are not supported): "
            f"{expected}"
        )
    of_unet = {key: shape for key, shape in shapes.items() if key.startswith(PREFIXES["unet"])}
    return _layout(given, of_unet, "prior.path")


def controlnet_layout(file: Path, given: Path) -> str:
    """The layout of a ControlNet's file, with the original names or diffusers'.

    Raises:
        UserError: if it is no ControlNet.
    """
    shapes = _shapes(file, "prior.controlnet", given)
    if not any("input_hint_block." in key or "controlnet_cond_embedding." in key for key in shapes):
        raise UserError(f"prior.controlnet={given}: no ControlNet is in it; expected one for OpenPose maps")
    return _layout(given, shapes, "prior.controlnet")


def check_vae(file: Path, given: Path) -> str:
    """The layout for a VAE's file (all of Stable Diffusion 1.x and 2.x share one).

    Raises:
        UserError: if no VAE is in it.
    """
    shapes = _shapes(file, "prior.vae", given)
    if not any(key.endswith("decoder.conv_in.weight") for key in shapes):
        raise UserError(f"prior.vae={given}: no VAE is in it; expected one of Stable Diffusion 1.x or 2.x")
    return next(iter(WIDTHS.values()))


def find_tokenizer(file: Path, given: str) -> Path:
    """The folder of the tokenizer: ``given``, or ``tokenizer`` next to the file.

    Raises:
        UserError: if its files are not there.
    """
    base = Path(given).expanduser() if given else file.parent
    for folder in (base, base / "tokenizer"):
        if any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
            return folder
    found = f"prior.tokenizer={given}: not there" if given else f"{file}: a single file holds no tokenizer"
    raise UserError(
        f"{found}: expected a folder with CLIP's vocab.json and merges.txt (the folder 'tokenizer' of any Stable "
        "Diffusion in diffusers' format, or openai/clip-vit-large-patch14): give it with prior.tokenizer=<folder>, or "
        "put it next to the file as 'tokenizer'"
    )


def tokenizer_arguments(layout: str) -> dict[str, Any]:
    """Arguments of ``CLIPTokenizer.from_pretrained`` that ``vocab.json`` and ``merges.txt`` do not hold."""
    content = json.loads((LAYOUTS / layout / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if name.endswith("_token") or name == "model_max_length"}


def load(cls: Any, file: Path, name: str, layout: str, dtype: torch.dtype) -> Any:
    """Load the component ``name`` (unet, vae, text_encoder or controlnet) from a file as an instance of ``cls``.

    Raises:
        UserError: if weights are missing.
        ValueError: if their shapes do not fit the layout.
    """
    weights = _read(file, PREFIXES.get(name, ""))
    arguments: dict[str, Any] = {"subfolder": name, "local_files_only": True}
    config = str(LAYOUTS / layout)
    try:
        if name == "text_encoder":
            network = create_diffusers_clip_model_from_ldm(cls, weights, config=config, torch_dtype=dtype, **arguments)
        else:
            network = cls.from_single_file(weights, config=config, dtype=dtype, **arguments)
        lacks = any(value.is_meta for value in network.state_dict().values())
    except (NotImplementedError, SingleFileComponentError):  # torch and diffusers on missing weights
        lacks = True
    if lacks:
        raise UserError(
            f"{file}: weights of the {name} are not in it: the file is incomplete, or no Stable Diffusion 1.x or 2.x"
        )
    return network


def stated_prediction(file: Path, layout: str) -> str | None:
    """The prediction type in a file's metadata, or of all files of its layout; None if only the UNet can tell.

    The keys are those of the ModelSpec standard; ``v_pred`` is an empty tensor that marks files by convention.
    """
    with safe_open(file, "pt") as tensors:
        metadata, marked = tensors.metadata() or {}, "v_pred" in tensors.keys()  # noqa: SIM118 (no mapping)
    stated = metadata.get("modelspec.prediction_type", "")
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    if marked or stated in ("v", "v_prediction") or architecture.endswith("768-v"):
        return "v_prediction"
    if stated == "epsilon" or architecture.endswith("v2-512") or layout == "sd15":
        return "epsilon"
    return None


def latent_size(layout: str, prediction: str | None) -> int:
    """Side of the latents of a layout with this prediction type; 0: the layout's own."""
    return V_LATENT_SIZE if layout == "sd21" and prediction == "v_prediction" else 0


@torch.no_grad()
def probe_prediction(unet: Any, last_step: int = 999) -> str:
    """The prediction type of a UNet, by its output for pure noise.

    At the last timestep z_t is nearly the noise itself, so a prediction of the noise is nearly its input, while
    v = alpha eps - sigma z0 is nearly -z0, which hardly depends on the input.
    """
    config = unet.config
    noise = torch.randn(1, config.in_channels, PROBE_SIZE, PROBE_SIZE, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 1, config.cross_attention_dim, device=unet.device, dtype=unet.dtype)
    more: dict[str, Any] = {}
    if pooled := pooled_width(config):
        more = {"added_cond_kwargs": {"text_embeds": text.new_zeros(1, pooled), "time_ids": text.new_zeros(1, SIZES)}}
    output = unet(noise.to(unet.device, unet.dtype), last_step, encoder_hidden_states=text, return_dict=False, **more)[
        0
    ]
    similarity = torch.cosine_similarity(output.float().cpu().flatten(), noise.flatten(), dim=0)
    return "epsilon" if float(similarity) > 0.5 else "v_prediction"


def _layout(file: Path, shapes: dict[str, list[int]], override: str) -> str:
    widths = {shape[-1] for key, shape in shapes.items() if key.endswith(CROSS_ATTENTION)}
    layouts = {WIDTHS.get(width) for width in widths}
    if len(layouts) != 1 or None in layouts:
        raise UserError(
            f"{override}={file}: it reads text of width {', '.join(map(str, sorted(widths))) or 'none'}: expected "
            "Stable Diffusion 1.x (768) or 2.x (1024); Stable Diffusion XL is read from folders and hub names only"
        )
    return str(layouts.pop())


def _shapes(file: Path, override: str, given: Path) -> dict[str, list[int]]:
    """Shapes of the tensors by name; raises UserError for a LoRA."""
    with safe_open(file, "pt") as tensors:
        shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118 (no mapping)
    if lora.looks_like(shapes):
        raise UserError(
            f"{override}={given} is a LoRA: give it with prior.lora={given}, next to the prior that it was made for "
            "(such as prior=sd15)"
        )
    return shapes


def _read(file: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors with ``prefix``; all tensors of a file that holds one component only."""
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
        chosen = [name for name in names if name.startswith(prefix)] or names
        return {name: tensors.get_tensor(name) for name in chosen}
