"""LoRA files: low-rank changes of a prior's weights, which are added to them when the prior is loaded.

A file holds for each layer two small matrices ``down`` [r, in] and ``up`` [out, r] (kernels for convolutions), and
often ``alpha``; the layer's weight W becomes ``W + scale * alpha / r * up @ down`` (Hu et al. 2021). Kohya's programs
and A1111 join a layer's path with underscores, diffusers and PEFT keep its dots: names are compared with underscores.

The sum is computed here rather than by diffusers' loaders: in float32 with one rounding in any format of the UNet, and
a tensor without a layer is an error, where those loaders skip some.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import lora_entry
from avatar_gs.prior.loading.weight_files import check_safetensors, is_pickle, tensors_of

LOGGER = logging.getLogger(__name__)

UNET, TEXT = "UNet", "text encoder"
PREFIXES = {
    "lora_unet_": UNET,
    "lora_te_": TEXT,
    "lora_te1_": TEXT,
    "unet.": UNET,
    "text_encoder.": TEXT,
    "base_model.model.text_model.": TEXT,
    "base_model.model.": UNET,
    "text_model.": TEXT,
}
"""Prefixes of names. Names without one belong to the UNet, as in the first files of diffusers."""
OTHER_MODELS = {
    "lora_te2_": "Stable Diffusion XL",
    "text_encoder_2.": "Stable Diffusion XL",
    "transformer.": "Stable Diffusion 3, Flux or the like",
    "lora_transformer_": "Stable Diffusion 3, Flux or the like",
    "lora_te3_": "Stable Diffusion 3",
}
ENDS = re.compile(
    r"(?P<layer>.*?)(?:"
    r"\.(?:lora_)?alpha(?P<alpha>)"
    r"|\.(?:lora_|lora\.|lora_linear_layer\.)(?P<role>down|up|mid|A|B)(?:\.\w+)?\.weight"
    r"|_lora\.(?P<old>down|up)\.weight)"
)
ROLES = {"A": "down", "B": "up"}
OTHER_FORMATS = {
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.oft_": "OFT",
    r"\.dora_scale$|\.lora_magnitude_vector": "DoRA",
    r"\.diff(_b)?$": "difference of whole weights",
    r"\.[ab][12]\.weight$": "GLoRA",
    r"\.on_input$": "IA3",
}
OLD_NAMES = {UNET: {"to_out": "to_out.0"}, TEXT: {f"to_{part}": f"{part}_proj" for part in ("q", "k", "v", "out")}}
"""Names of layers in diffusers' first files, and their names now."""
PEFT_CONFIG, METADATA = "adapter_config.json", "lora_adapter_metadata"
TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True)
class Factors:
    """The change of one layer. ``mid`` is the kernel between the two of a doubly factorised convolution."""

    down: Tensor
    up: Tensor
    mid: Tensor | None
    factor: float
    """alpha / r, or alpha / sqrt(r) of rank-stabilised ones."""

    def product(self) -> Tensor:
        """The change as float32, in the shape of a linear layer [out, in] or of a convolution [out, in, h, w]."""
        down, up = self.down.float(), self.up.float()
        if self.mid is not None:
            product = torch.einsum("or,rskl,si->oikl", up.flatten(1), self.mid.float(), down.flatten(1))
        else:
            product = (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
        return self.factor * product


@dataclass(frozen=True)
class Lora:
    """The content of a file: changes by network and flat name of the layer."""

    file: Path
    scale: float
    layers: Mapping[tuple[str, str], Factors]


def looks_like(names: Iterable[str]) -> bool:
    """Whether some of these names are those of a LoRA's tensors."""
    matches = [ENDS.fullmatch(name) for name in names]
    return any(match is not None and match["alpha"] is None for match in matches)


def digest(entries: Sequence[str]) -> str:
    """Name, scale and content hash of each entry of ``prior.lora``, for cache keys and records; "" for none."""
    parts = []
    for path, scale in map(lora_entry, entries):
        with Path(path).expanduser().open("rb") as content:
            parts.append(f"{Path(path).name}:{scale:g}:{hashlib.file_digest(content, 'sha256').hexdigest()[:16]}")
    return ", ".join(parts)


def read(entry: str) -> Lora:
    """The LoRA that an entry of ``prior.lora`` names.

    Raises:
        UserError: if the file is missing, damaged or empty, is no LoRA or one of another form or model, or holds
            numbers that are not finite.
    """
    path, scale = lora_entry(entry)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"prior.lora={path}: no such file; expected a LoRA for this prior (.safetensors)")
    tensors, metadata = _content(file)
    _check_is_one(file, tensors)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match = ENDS.fullmatch(name)
        if match is None:
            raise UserError(f"prior.lora={file}: '{name}' is no part of a LoRA for a UNet or a text encoder")
        role = match["role"] or match["old"] or "alpha"
        found.setdefault(_layer(match["layer"]), {})[ROLES.get(role, role)] = value
    return Lora(file, scale, {layer: _factors(file, layer, parts, metadata) for layer, parts in found.items()})


def fuse(loras: Sequence[Lora], unet: nn.Module, text_encoder: nn.Module) -> None:
    """Add all changes to the networks' weights, in place.

    Raises:
        UserError: a file fits neither network, or makes a weight infinite in the precision of its network. The networks
            are unchanged if a file does not fit.
    """
    if not loras:
        return
    known = {
        **{(UNET, _flat(name)): module for name, module in _layers(unet)},
        **{(TEXT, _flat(name)): module for name, module in _layers(text_encoder)},
    }
    for lora in loras:
        _check_fits(lora, known)
    for layer, module in known.items():
        changes = [(lora, lora.layers[layer]) for lora in loras if layer in lora.layers]
        if not changes:
            continue
        weight: Any = module.weight
        with torch.no_grad():
            changed = weight.float()
            for lora, factors in changes:
                changed = changed + (lora.scale * factors.product()).reshape(weight.shape).to(weight.device)
            changed = changed.to(weight.dtype)
            if not changed.isfinite().all():
                raise UserError(
                    f"prior.lora={changes[-1][0].file}: it makes weights of {layer[1]} infinite in "
                    f"{str(weight.dtype).removeprefix('torch.')}: give a smaller scale (<file>:<scale>)"
                )
            weight.copy_(changed)
    for lora in loras:
        counts = {network: sum(of == network for of, _ in lora.layers) for network in (UNET, TEXT)}
        LOGGER.info(
            "LoRA %s, scale %g: %s",
            lora.file,
            lora.scale,
            ", ".join(f"{n} layers of the {k}" for k, n in counts.items()),
        )


# ---- reading


def _content(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and training settings (PEFT's alpha, which is not among its tensors)."""
    if is_pickle(file):
        return tensors_of(file), _peft_config(file)
    check_safetensors(file, f"prior.lora={file}")
    with safe_open(file, "pt") as content:
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
        settings = (content.metadata() or {}).get(METADATA)
    return tensors, _json(file, settings) if settings else _peft_config(file)


def _peft_config(file: Path) -> dict[str, Any]:
    """The settings that PEFT writes into the same folder."""
    config = file.with_name(PEFT_CONFIG)
    if not file.stem.startswith("adapter_model") or not config.is_file():
        return {}
    return _json(config, config.read_text(encoding="utf-8"))


def _json(file: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"prior.lora: {file}: its settings are not valid JSON ({error}): get the file again") from error
    return content if isinstance(content, dict) else {}


def _check_is_one(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for a file that is no LoRA, naming what it is, and for numbers that are not finite."""
    if not tensors:
        raise UserError(f"prior.lora={file}: it is empty: no weights are in it")
    for name in tensors:
        if found := _other_format(name):
            raise UserError(
                f"prior.lora={file}: '{name}' is part of a {found}: expected a plain LoRA (up, down, alpha)"
            )
        model = next((model for start, model in OTHER_MODELS.items() if name.startswith(start)), "")
        if model:
            raise UserError(f"prior.lora={file}: '{name}' belongs to {model}: expected a LoRA for this prior")
    if not looks_like(tensors):
        whole = any(name.startswith("model.diffusion_model.") for name in tensors)
        hint = "a whole checkpoint goes to prior=" if whole else "an embedding goes to identity="
        raise UserError(f"prior.lora={file}: no LoRA is in it (its first entry is '{next(iter(tensors))}'); {hint}")
    for name, value in tensors.items():
        if not (value.is_floating_point() or name.endswith("alpha")):  # alpha may be a whole number
            raise UserError(f"prior.lora={file}: '{name}' is {value.dtype}, expected floating-point numbers")
        if not value.float().isfinite().all():
            raise UserError(f"prior.lora={file}: '{name}' holds NaN or infinite numbers: get another")


def _other_format(name: str) -> str:
    return next((found for pattern, found in OTHER_FORMATS.items() if re.search(pattern, name)), "")


def _layer(name: str) -> tuple[str, str]:
    """``(network, flat name)`` of a layer with any program's name."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    network, path = PREFIXES.get(prefix, UNET), name.removeprefix(prefix).replace(".processor", "")
    head, dot, last = path.rpartition(".")
    return network, _flat(head + dot + OLD_NAMES[network].get(last, last))


def _flat(path: str) -> str:
    """A layer's path joined by underscores, without the prefix ``text_model`` of some versions."""
    return path.replace(".", "_").removeprefix("text_model_")


def _factors(file: Path, layer: tuple[str, str], parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Factors:
    if not {"down", "up"} <= set(parts):
        raise UserError(f"prior.lora={file}: {layer[1]} has {', '.join(parts)} only: the file is incomplete")
    down, up = parts["down"], parts["up"]
    if not _fit_together(down, up, parts.get("mid")):
        raise UserError(
            f"prior.lora={file}: {layer[1]}: down {list(down.shape)} and up {list(up.shape)} do not fit together"
        )
    prefix, rank = {UNET: "unet.", TEXT: "text_encoder."}[layer[0]], len(down)
    chosen = {name.removeprefix(prefix): value for name, value in settings.items()}
    try:
        patterns = {_flat(name): value for name, value in (chosen.get("alpha_pattern") or {}).items()}
        alpha = float(parts.get("alpha", patterns.get(layer[1], chosen.get("lora_alpha") or rank)))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"prior.lora={file}: {layer[1]}: its alpha is no number: get another") from error
    return Factors(down, up, parts.get("mid"), alpha / (rank**0.5 if chosen.get("use_rslora") else rank))


def _fit_together(down: Tensor, up: Tensor, mid: Tensor | None) -> bool:
    """Whether the factors of a layer have shapes that can be multiplied (``Factors.product``)."""
    if up.ndim < 2 or down.ndim < 2 or 0 in (*up.shape, *down.shape):
        return False
    if mid is None:
        return up.flatten(1).shape[1] == len(down)
    return mid.ndim == 4 and tuple(mid.shape[:2]) == (up.flatten(1).shape[1], len(down))


# ---- fitting


def _layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _check_fits(lora: Lora, known: Mapping[tuple[str, str], nn.Module]) -> None:
    """Raise UserError for a LoRA that was made for other layers, or for layers of other sizes."""
    unknown = [name for name in lora.layers if name not in known]
    for layer, factors in lora.layers.items():
        if layer in unknown:
            continue
        weight: Any = known[layer].weight
        shape = (
            len(factors.up),
            factors.down.shape[1],
            *(factors.mid if factors.mid is not None else factors.down).shape[2:],
        )
        if shape[:2] != tuple(weight.shape[:2]) or torch.Size(shape).numel() != weight.numel():
            raise UserError(
                f"prior.lora={lora.file}: made for another model{_made_for(lora)}: it changes {layer[1]} of the "
                f"{layer[0]}, which is {list(weight.shape)} here, by {list(shape)}"
            )
    if unknown:
        few = "none of its layers is" if len(unknown) == len(lora.layers) else f"{len(unknown)} of its layers are not"
        raise UserError(
            f"prior.lora={lora.file}: made for another model{_made_for(lora)}: {few} in this prior (such as "
            f"{unknown[0][1]} of the {unknown[0][0]})"
        )


def _made_for(lora: Lora) -> str:
    """The model that a LoRA was made for, by the width of the UNet's text conditions."""
    widths = {factors.down.shape[1] for (_, name), factors in lora.layers.items() if name.endswith("attn2_to_k")}
    model = TEXT_WIDTHS.get(widths.pop()) if len(widths) == 1 else None
    return f" ({model})" if model else ""
