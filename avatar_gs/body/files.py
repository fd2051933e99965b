"""Body files: finding them, checking their arrays, and safe copies.

``smplx`` reads every member of an npz with ``allow_pickle=True``, and the published SMPL-X files (or malicious ones)
contain pickled objects. So every file is checked before ``smplx`` loads it: if it contains anything but the plain
arrays below, only these are copied to a cached file, which is loaded instead.
"""

import hashlib
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.io import atomic_write
from avatar_gs.core.npz import DAMAGED, Header, read_header
from avatar_gs.core.paths import BODY_MODELS, user_cache
from avatar_gs.types import NUM_JOINTS

FREE_BODY = BODY_MODELS / "free" / "SMPLX_NEUTRAL.npz"
LICENSED_BODY = Path("body_models") / "smplx" / "SMPLX_NEUTRAL.npz"

LAYOUT: dict[str, tuple[int | str, ...]] = {
    "v_template": ("V", 3),
    "f": ("F", 3),
    "shapedirs": ("V", 3, "S"),
    "posedirs": ("V", 3, 486),
    "J_regressor": (NUM_JOINTS, "V"),
    "weights": ("V", NUM_JOINTS),
    "kintree_table": (2, NUM_JOINTS),
    "lmk_faces_idx": (51,),
    "lmk_bary_coords": (51, 3),
    "dynamic_lmk_faces_idx": (79, 17),
    "dynamic_lmk_bary_coords": (79, 17, 3),
    "hands_componentsl": ("H", 45),
    "hands_componentsr": ("H", 45),
    "hands_meanl": (45,),
    "hands_meanr": (45,),
}
"""The arrays that smplx needs, with their shapes: V vertices, F faces, S shape and expression directions, H hand
components."""
MAX_BYTES = 2**30
"""Largest size of all arrays together; SMPL-X's with 400 shape and expression directions are a quarter of it."""


def find_body(path: str | None) -> Path:
    """The file of a setting ``body.path`` (see ``BodyConfig.path``). Raises UserError if it does not exist."""
    if path is not None:
        chosen = Path(path).expanduser()
        if not chosen.is_file():
            raise UserError(
                f"body.path={path}: no such file; expected an .npz in the SMPL-X layout "
                "(leave body.path out for the free body)"
            )
        return chosen
    for folder in (Path.cwd(), BODY_MODELS.parent):
        if (folder / LICENSED_BODY).is_file():
            return folder / LICENSED_BODY
    if not FREE_BODY.is_file():
        raise UserError(
            f"{FREE_BODY}: the free body is missing; restore it from the repository, or rebuild it with stage=body"
        )
    return FREE_BODY


def checked_body(path: Path) -> Path:
    """A file that is safe for ``smplx`` to load: ``path`` itself, or a cached copy of its arrays.

    Raises:
        UserError: if the file is damaged or its arrays are not those of SMPL-X.
    """
    headers = _read_headers(path)
    _check_layout(path, headers)
    plain = set(headers) == set(LAYOUT) and all(not dtype.hasobject for _, dtype in headers.values())
    return path if plain and path.name.startswith("SMPLX_") else _clean_copy(path)


def _read_headers(path: Path) -> dict[str, Header]:
    """Shape and type of every array of an npz, without reading (or unpickling) the arrays."""
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as content:
                    headers[member.removesuffix(".npy")] = read_header(content)
    except DAMAGED as error:
        raise UserError(
            f"{path}: not a whole .npz body file ({first_line(error)}); it is damaged or truncated: copy or download "
            "it again"
        ) from error
    return headers


def _check_layout(path: Path, headers: dict[str, Header]) -> None:
    sizes: dict[str, int] = {}
    for name, expected in LAYOUT.items():
        if name not in headers:
            raise UserError(
                f"{path}: array '{name}' is missing; expected the arrays of a SMPL-X v1.1 body ({', '.join(LAYOUT)})"
            )
        shape, dtype = headers[name]
        fits = len(shape) == len(expected) and dtype.kind in "fiu"
        for size, found in zip(expected, shape, strict=False):
            fits = fits and found == (sizes.setdefault(size, found) if isinstance(size, str) else size)
        if not fits:
            wanted = "×".join(str(sizes.get(n, n)) if isinstance(n, str) else str(n) for n in expected)
            raise UserError(
                f"{path}: array '{name}' is {dtype} {'×'.join(map(str, shape))}, expected numbers {wanted}; "
                "this is no SMPL-X body (SMPL, SMPL-H and MANO files do not fit)"
            )
    size = sum(math.prod(headers[name][0]) * headers[name][1].itemsize for name in LAYOUT)
    if size > MAX_BYTES or min(sizes.values()) < 1:
        raise UserError(
            f"{path}: its arrays have {size / 2**30:.3g} GiB, expected those of a SMPL-X body (at most 1 GiB)"
        )


def _clean_copy(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    cache = user_cache() / "bodies"
    clean = cache / digest / "SMPLX_NEUTRAL.npz"
    if clean.is_file():
        return clean
    arrays = read_arrays(path)
    try:
        with atomic_write(clean) as temporary:
            np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise UserError(
            f"{clean}: the clean copy of {path} cannot be written ({error}); set XDG_CACHE_HOME to a writable folder"
        ) from error
    return clean


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of ``LAYOUT`` without unpickling. Raises UserError if their bytes are damaged."""
    with reading_arrays(path), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in LAYOUT}


@contextmanager
def reading_arrays(path: Path) -> Iterator[None]:
    """Raise UserError for a damaged archive ``path`` that is read in the block."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"{path}: its arrays cannot be read ({first_line(error)}); it is damaged or truncated: copy or download it "
            "again"
        ) from error
