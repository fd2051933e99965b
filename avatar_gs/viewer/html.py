"""``avatar.html``: one file that shows the avatar in any browser, from disk and without a network.

The page is assembled from the sources in ``web/`` and contains the splats as one base64 block, a versioned container to
which sections can be added:

- 4 bytes ``AGS1``, then the length of the header as a little-endian uint32;
- the header: JSON, padded with spaces to a multiple of 4 bytes. ``count`` is the number of splats, ``bounds`` the box
  (metres) that the camera frames, ``sections`` a list of ``name, type, components, offset`` (bytes from the end of the
  header, each a multiple of 4), optionally ``count`` (of rows, if not the splats'), and for quantised ones ``low,
  high`` per component: value = low + (high - low) * stored / largest. With ``rig`` (``viewer.rig``) splats are at rest;
  ``about`` is a list of lines about the avatar;
- the sections.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.core.io import atomic_write
from avatar_gs.types import Gaussians
from avatar_gs.viewer.rig import Rig, at_rest, describe

MAGIC = b"AGS1"
_SCRIPTS = (
    "splats.js", "sorter.js", "shaders.js", "renderer.js", "camera.js", "surface.js", "motion.js", "panels.js",
    "files.js", "viewer.js",
)  # fmt: skip
_FRAMED = (0.002, 0.998)
"""Quantiles of the splats on each axis that the first view frames, so that floaters do not shrink the avatar."""


def write_html(
    path: str | Path, gaussians: Gaussians, title: str, rig: Rig | None = None, about: Sequence[str] = ()
) -> None:
    """Write the page.

    Args:
        path: the file.
        gaussians: finite splats (see ``export.writer.clean_splats``) in the world frame (+y up, facing +z).
        title: any text.
        rig: lets the avatar move; None: it stands still.
        about: lines about the avatar (prompt, seed, command), shown on request.

    Raises:
        OSError: if the file cannot be written.
    """
    web = files("avatar_gs.viewer") / "web"
    sources = {name: (web / name).read_text(encoding="utf-8") for name in ("viewer.html", "viewer.css", *_SCRIPTS)}
    script = "\n".join(sources[name] for name in _SCRIPTS)
    # Surrogates (from non-UTF-8 bytes on the command line) cannot be encoded.
    text = " ".join(title.encode("utf-8", "replace").decode("utf-8").split())
    page = _fill(
        sources["viewer.html"],
        {
            "title": html.escape(text or "Avatar"),
            "style": sources["viewer.css"],
            "style_hash": csp_hash(sources["viewer.css"]),
            "script": script,
            "script_hash": csp_hash(script),
            "splats": base64.b64encode(pack(gaussians, rig, about)).decode("ascii"),
        },
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def pack(gaussians: Gaussians, rig: Rig | None = None, about: Sequence[str] = ()) -> bytes:
    """Pack splats into the container described in the module's docstring, 24 bytes per splat (32 with a rig).

    The resolution is 1/65535 of the avatar's size for positions (0.03 mm), 1/65535 of the logarithmic range for scales,
    and 1/255 for colours and opacities.
    """
    bounds = np.quantile(gaussians.means.detach().cpu().double().numpy(), _FRAMED, axis=0).round(4).tolist()
    header: dict[str, Any] = {"count": len(gaussians), "bounds": bounds}
    if about:
        header["about"] = list(about)
    moving: list[tuple[dict[str, Any], bytes]] = []
    if rig is not None:
        header["rig"], moving = describe(rig)
        gaussians = at_rest(gaussians, rig)
    means, scales = (values.detach().cpu().double().numpy() for values in (gaussians.means, gaussians.scales))
    quats = torch.nn.functional.normalize(gaussians.quats.detach(), dim=-1).cpu().double().numpy()
    colors = torch.cat([gaussians.colors, gaussians.opacities[:, None]], -1).detach().clamp(0, 1).cpu().double().numpy()
    ones = np.ones(4)
    quantised = [
        _quantise("means", means, means.min(0), means.max(0), np.uint16),
        _quantise("log_scales", np.log(scales), np.log(scales).min(0), np.log(scales).max(0), np.uint16),
        _quantise("quats", quats, -ones, ones, np.uint16),
        _quantise("colors", colors, 0 * ones, ones, np.uint8),
    ]
    sections, body = [], b""
    for section, data in [*quantised, *moving]:
        sections.append(section | {"offset": len(body)})
        body += data + bytes(-len(data) % 4)
    encoded = json.dumps(header | {"sections": sections}, separators=(",", ":")).encode("ascii")
    encoded += b" " * (-len(encoded) % 4)
    return MAGIC + len(encoded).to_bytes(4, "little") + encoded + body


def _quantise(
    name: str,
    values: Float[np.ndarray, "N C"],
    low: Float[np.ndarray, " C"],
    high: Float[np.ndarray, " C"],
    dtype: type,
) -> tuple[dict[str, Any], bytes]:
    largest = np.iinfo(dtype).max
    span = np.where(high > low, high - low, 1.0)
    stored = np.rint((values - low) / span * largest).astype(np.dtype(dtype).newbyteorder("<"))
    section = {"name": name, "type": np.dtype(dtype).name, "components": values.shape[1]}
    return section | {"low": low.tolist(), "high": (low + span).tolist()}, stored.tobytes()


def csp_hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")


def _fill(template: str, values: dict[str, str]) -> str:
    """Replace ``{{name}}`` by ``values[name]`` in one pass, so that a title with ``{{script}}`` stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], template)
