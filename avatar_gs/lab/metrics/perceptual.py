"""LPIPS (Zhang et al. 2018) with weights from the user.

The ``lpips`` package brings its own linear layers, but would download the ImageNet network under them. Here that
network is read from a file, and nothing is downloaded.
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avatar_gs.core.errors import UserError, first_line

NETWORKS = ("alexnet", "vgg16")
"""torchvision's names; the first one found in a folder is used. LPIPS is commonly reported with AlexNet."""
SUFFIXES = (".safetensors", ".pth")
BATCH = 8


@dataclass(frozen=True)
class Perceptual:
    """LPIPS with one of its networks."""

    name: str
    model: Any

    @torch.no_grad()
    def distances(self, first: Float[Tensor, "B H W 3"], second: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
        """LPIPS of each pair of images in [0, 1]; 0 for equal images."""
        pairs = zip(first.split(BATCH), second.split(BATCH), strict=True)
        return torch.cat([self._distances(a, b) for a, b in pairs])

    def _distances(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = (images.float().permute(0, 3, 1, 2) for images in (first, second))
        return self.model(a, b, normalize=True).flatten()


def load_lpips(source: str) -> Perceptual | None:
    """Load LPIPS with the ImageNet weights of torchvision's AlexNet or VGG16.

    Args:
        source: a ``.pth`` or ``.safetensors`` file or a folder with one; "" gives None.

    Raises:
        UserError: if the file is missing, damaged, or of another network.
    """
    if not source:
        return None
    path = _find(Path(source).expanduser())
    tensors = _read(path)
    name = _network(tensors)
    if name is None:
        raise UserError(
            f"evaluate.lpips={path}: neither torchvision's AlexNet nor its VGG16 (by its layers' names and shapes)"
        )
    return Perceptual(name, _build(name, tensors))


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"evaluate.lpips={path}: no such file or folder; expected torchvision's ImageNet weights of AlexNet or "
            "VGG16 (alexnet-owt-7be5be79.pth, vgg16-397923af.pth, or the same tensors as .safetensors)"
        )
    found = [
        file
        for name in NETWORKS
        for file in sorted(path.glob(f"{name}*"))
        if file.suffix in SUFFIXES and file.is_file()
    ]
    if not found:
        raise UserError(f"evaluate.lpips={path}: no alexnet*.pth, vgg16*.pth (or .safetensors) in this folder")
    return found[0]


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = first_line(error)
        raise UserError(f"evaluate.lpips={path}: cannot be read ({reason}): fetch it again") from error
    is_state = isinstance(loaded, dict) and all(isinstance(value, Tensor) for value in loaded.values())
    return loaded if is_state else {}


def _network(tensors: Mapping[str, Tensor]) -> str | None:
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes.get("features.0.weight") == (64, 3, 11, 11) and shapes.get("features.10.weight") == (256, 256, 3, 3):
        return "alexnet"
    if shapes.get("features.0.weight") == (64, 3, 3, 3) and shapes.get("features.28.weight") == (512, 512, 3, 3):
        return "vgg16"
    return None


def _build(name: str, tensors: Mapping[str, Tensor]) -> Any:
    import lpips

    short = {"alexnet": "alex", "vgg16": "vgg"}[name]
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # torchvision's, about how lpips calls it
        model = lpips.LPIPS(net=short, pretrained=False, pnet_rand=True, verbose=False)
    linear = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{short}.pth", "cpu", weights_only=True)
    model.load_state_dict(linear, strict=False)
    slices = model.net.state_dict()  # slice2.3.weight: torchvision's features.3.weight
    model.net.load_state_dict({key: tensors[f"features.{key.partition('.')[2]}"] for key in slices})
    return model.eval().requires_grad_(False)
