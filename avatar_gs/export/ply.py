"""Splats as a PLY file in the layout of the 3D Gaussian splatting paper, which every viewer reads.

The file always has 62 float32 properties: readers fail on fewer, so the higher bands of the spherical harmonics are
zeros. Opacities are logits, scales are logarithms, colours are coefficients of the constant spherical harmonic.
"""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.io import atomic_write
from avatar_gs.export.config import Frame
from avatar_gs.geometry import quat_multiply, quat_to_matrix
from avatar_gs.types import SH_C0, Gaussians

OPACITY_LIMIT = 1 - 1e-6
"""Largest opacity in a file; the logit of 1 is infinite."""

MAX_HEADER = 2**16

_POSITION, _NORMAL = ["x", "y", "z"], ["nx", "ny", "nz"]
_COLOR, _REST = [f"f_dc_{i}" for i in range(3)], [f"f_rest_{i}" for i in range(45)]
_SCALE, _ROTATION = [f"scale_{i}" for i in range(3)], [f"rot_{i}" for i in range(4)]
PROPERTIES = [*_POSITION, *_NORMAL, *_COLOR, *_REST, "opacity", *_SCALE, *_ROTATION]

# Half turns: their own inverses, and exact in floating point.
_TURNS = {Frame.supersplat: (0.0, 0.0, 0.0, 1.0), Frame.rdf: (0.0, 1.0, 0.0, 0.0), Frame.yup: (1.0, 0.0, 0.0, 0.0)}


def change_frame(gaussians: Gaussians, frame: Frame) -> Gaussians:
    """Rotate splats from the world frame (+y up, facing +z) to ``frame``, or back.

    The rotation is its own inverse, up to the sign of the quaternions.
    """
    turn = torch.tensor(_TURNS[frame], dtype=gaussians.means.dtype, device=gaussians.means.device)
    return Gaussians(
        means=gaussians.means * quat_to_matrix(turn).diagonal(),
        quats=quat_multiply(turn.expand_as(gaussians.quats), gaussians.quats),
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors,
    )


def write_ply(path: str | Path, gaussians: Gaussians, frame: Frame = Frame.supersplat) -> None:
    """Write a binary little-endian PLY file.

    Args:
        path: the file.
        gaussians: splats in the world frame (+y up, facing +z); the file keeps their order. Opacities are clamped to
            just below 1.
        frame: axes of the file.

    Raises:
        ValueError: for values that no viewer can render (``writer.clean_splats`` removes them).
        OSError: if the file cannot be written.
    """
    _check_drawable(gaussians)
    turned = change_frame(gaussians.detach(), frame)
    columns: list[tuple[list[str], Tensor]] = [
        (_POSITION, turned.means),
        (_COLOR, (turned.colors - 0.5) / SH_C0),
        (["opacity"], torch.logit(turned.opacities.double().clamp(max=OPACITY_LIMIT))[:, None]),
        (_SCALE, turned.scales.log()),
        (_ROTATION, torch.nn.functional.normalize(turned.quats, dim=-1)),
    ]
    rows = np.zeros((len(turned), len(PROPERTIES)), dtype="<f4")
    for names, values in columns:
        start = PROPERTIES.index(names[0])
        rows[:, start : start + len(names)] = values.cpu().numpy()
    vertices = rows.view([(name, "<f4") for name in PROPERTIES])[:, 0]
    # Through memory: numpy's errors do not tell that a disk is full.
    content = io.BytesIO()
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_ply(path: str | Path, frame: Frame = Frame.supersplat) -> Gaussians:
    """Read splats from a PLY file with axes ``frame`` to the world frame (+y up, facing +z).

    Bands of spherical harmonics beyond the constant one are ignored.

    Raises:
        UserError: if the file is missing, truncated, or not a PLY file of splats.
    """
    try:
        vertices = _vertices(Path(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a PLY file of splats") from error
    except (PlyParseError, KeyError, ValueError, TypeError, IndexError, OverflowError, struct.error) as error:
        raise UserError(
            f"{path} is damaged or not a PLY file of splats ({first_line(error)}): export the avatar again"
        ) from error
    needed = [*_POSITION, *_COLOR, "opacity", *_SCALE, *_ROTATION]
    missing = [name for name in needed if name not in (vertices.dtype.names or ())]
    if missing:
        raise UserError(f"{path} is a PLY file without {', '.join(missing)}: expected one of Gaussian splats")

    unread = [name for name in needed if vertices.dtype[name].kind not in "fiu"]
    if unread or not all(np.isfinite(vertices[name]).all() for name in needed):
        raise UserError(f"{path} holds values that are no finite numbers: export the avatar again")

    def column(names: list[str]) -> Float[Tensor, "N C"]:
        return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], -1))

    stored = Gaussians(
        means=column(_POSITION),
        quats=column(_ROTATION),
        scales=column(_SCALE).exp(),
        opacities=column(["opacity"])[:, 0].sigmoid(),
        colors=column(_COLOR) * SH_C0 + 0.5,
    )
    for name in ("means", "scales", "colors"):
        if not getattr(stored, name).isfinite().all():
            raise UserError(f"{path} holds {name} that are too large: export the avatar again")
    return change_frame(stored, frame)


def _vertices(path: Path) -> np.ndarray:
    """The rows of a file's vertices; sizes are compared with the file's before anything is allocated.

    Raises:
        ValueError: if the file is shorter than its header states, or its vertices are lists or text.
    """
    with path.open("rb") as file:
        header = file.read(MAX_HEADER)
        end = header.find(b"end_header")
        if not header.startswith(b"ply") or end < 0:
            raise ValueError("no header of a PLY file")
        lines = [line.split() for line in header[:end].decode("latin-1").splitlines()]
        counts = [int(line[2]) for line in lines if line[:1] == ["element"]]
        lists = [line for line in lines if line[:2] == ["property", "list"]]
        if lists or min(counts, default=-1) < 0 or sum(counts) > path.stat().st_size:
            raise ValueError("lists, or more elements than the file has bytes")
        file.seek(0)
        return PlyData.read(file)["vertex"].data


def _check_drawable(gaussians: Gaussians) -> None:
    fields = {name: getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "colors")}
    for name, values in fields.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite")
    if len(gaussians) == 0:
        raise ValueError("there is no splat to write")
    if (gaussians.scales <= 0).any() or (gaussians.opacities <= 0).any():
        raise ValueError("scales and opacities must be above 0")
    if (gaussians.quats.norm(dim=-1) == 0).any():
        raise ValueError("quats holds a zero, which is no rotation")
