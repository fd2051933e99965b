"""``avatar.html``: one file that shows the avatar in any browser, from disk and with the network off.

The page is put together from the sources in ``web/``; the splats lie in it as one base64 block. The block is a small
container, so that later versions can add sections (skinning weights, motions) and old ones can be told apart:

- 4 bytes ``AGS1``, then the length of the header as a little-endian uint32;
- the header: JSON, padded with spaces to a multiple of 4 bytes. ``count`` is the number of splats, ``bounds`` the box
  (metres) that the camera frames, ``sections`` a list of ``name, type, components, offset`` (bytes from the end of the
  header, each a multiple of 4), and for quantised ones ``low, high`` for each component: value = low + (high - low) *
  stored / largest;
- the sections.
"""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.core.io import atomic_write
from avatar_gs.types import Gaussians

MAGIC = b"AGS1"
_SCRIPTS = ("splats.js", "sorter.js", "shaders.js", "renderer.js", "camera.js", "viewer.js")
_FRAMED = (0.002, 0.998)
"""The share of splats on each axis between which the first view is framed: a floater must not shrink the avatar."""


def write_html(path: str | Path, gaussians: Gaussians, title: str) -> None:
    """Writes the page of splats that are finite (see ``export.clean``) in the world frame (+y up, facing +z).

    Raises:
        OSError: if the file cannot be written.
    """
    web = files("avatar_gs.viewer") / "web"
    sources = {name: (web / name).read_text(encoding="utf-8") for name in ("viewer.html", "viewer.css", *_SCRIPTS)}
    script = "\n".join(sources[name] for name in _SCRIPTS)
    # A surrogate (from bytes on the command line that are not UTF-8) has no place in a file.
    text = " ".join(title.encode("utf-8", "replace").decode("utf-8").split())
    page = _fill(
        sources["viewer.html"],
        {
            "title": html.escape(text or "Avatar"),
            "style": sources["viewer.css"],
            "style_hash": _csp_hash(sources["viewer.css"]),
            "script": script,
            "script_hash": _csp_hash(script),
            "splats": base64.b64encode(pack(gaussians)).decode("ascii"),
        },
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def pack(gaussians: Gaussians) -> bytes:
    """The container of the splats that the module's docstring describes: 24 bytes a splat.

    Positions keep 1/65535 of the avatar's size (0.03 mm), scales 1/65535 of their logarithmic range, colours and
    opacities 1/255.
    """
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
    for section, data in quantised:
        sections.append(section | {"offset": len(body)})
        body += data + bytes(-len(data) % 4)
    bounds = np.quantile(means, _FRAMED, axis=0).round(4).tolist()
    header = json.dumps({"count": len(means), "bounds": bounds, "sections": sections}).encode("ascii")
    header += b" " * (-len(header) % 4)
    return MAGIC + len(header).to_bytes(4, "little") + header + body


def _quantise(
    name: str, values: Float[np.ndarray, "N C"], low: Float[np.ndarray, " C"], high: Float[np.ndarray, " C"], kind: type
) -> tuple[dict[str, Any], bytes]:
    largest = np.iinfo(kind).max
    span = np.where(high > low, high - low, 1.0)
    stored = np.rint((values - low) / span * largest).astype(np.dtype(kind).newbyteorder("<"))
    section = {"name": name, "type": np.dtype(kind).name, "components": values.shape[1]}
    return section | {"low": low.tolist(), "high": (low + span).tolist()}, stored.tobytes()


def _csp_hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")


def _fill(template: str, values: dict[str, str]) -> str:
    """Puts ``values`` in the places ``{{name}}`` in one pass: a title that holds ``{{script}}`` stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], template)
