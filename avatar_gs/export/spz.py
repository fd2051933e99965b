"""Splats as a SPZ file (Niantic's format, version 3): quantised and compressed, a fifteenth of a PLY file."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.export.ply import OPACITY_LIMIT
from avatar_gs.types import SH_C0, Gaussians

VERSION = 3
"""Version 4 is read by fewer viewers."""


def require_spz() -> None:
    """Raise UserError unless the package that writes SPZ files is installed."""
    if importlib.util.find_spec("gsply") is None:
        raise UserError("export.formats: spz needs the package gsply: pip install 'avatar-gs[spz]'")


def write_spz(path: str | Path, gaussians: Gaussians) -> None:
    """Write a SPZ file with the world's axes (+y up, facing +z), which are the format's own.

    Positions are multiples of 1/4096 m, logarithms of scales of 1/16, opacities of 1/255.

    Args:
        path: the file.
        gaussians: finite splats (see ``writer.clean_splats``) in the world frame.

    Raises:
        UserError: if gsply is not installed.
        OSError: if the file cannot be written.
    """
    require_spz()
    import gsply

    splats = gsply.GSData(
        means=_numbers(gaussians.means),
        scales=_numbers(gaussians.scales.log()),
        quats=_numbers(torch.nn.functional.normalize(gaussians.quats, dim=-1)),
        opacities=_numbers(torch.logit(gaussians.opacities.double().clamp(max=OPACITY_LIMIT))),
        sh0=_numbers((gaussians.colors - 0.5) / SH_C0),
        shN=np.zeros((len(gaussians), 0, 3), np.float32),
    )
    with atomic_write(path) as temporary:
        gsply.write_spz(temporary, splats, version=VERSION)


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
