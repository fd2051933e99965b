"""Optional background removal: which pixels of a photo are the person, by rembg (MIT).

The weights are U-2-Net's for people (Apache-2.0); rembg's own default ones are not free for commercial use. rembg
would fetch weights at first use without asking, so they are looked for before it can: nothing is downloaded here.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.identity.pixels import Unusable

WEIGHTS = "u2net_human_seg"
LEAST_AREA = 0.005
"""A mask that covers less of a picture found nobody in it."""
_OTHERWISE = "or leave embed.remove_background out (photos with a transparent background need no removal)"


def load_remover() -> Callable[[Image.Image], Image.Image]:
    """A function from an RGB picture to its mask (mode L, the picture's size, white where the person is), which raises
    ``Unusable`` where it finds nobody.

    Raises:
        UserError: rembg or its weights are not installed.
    """
    remove, session = _load()

    def remover(picture: Image.Image) -> Image.Image:
        mask = remove(picture, session=session, only_mask=True).convert("L")
        if np.asarray(mask).mean() < 255 * LEAST_AREA:
            raise Unusable("no person found in it (embed.remove_background)")
        return mask

    return remover


def _load() -> tuple[Any, Any]:
    """rembg's ``remove`` and a session of it."""
    try:
        # Importing rembg without onnxruntime prints advice and ends the process.
        if find_spec("onnxruntime") is None:
            raise ImportError("onnxruntime")
        import rembg  # pyright: ignore[reportMissingImports] (an optional extra)
        from rembg.sessions.u2net_human_seg import (  # pyright: ignore[reportMissingImports]
            U2netHumanSegSession,
        )
    except (ImportError, SystemExit) as error:
        raise UserError(
            "embed.remove_background=true needs the rembg package: install it with pip install 'avatar_gs[photos]', "
            + _OTHERWISE
        ) from error
    if U2netHumanSegSession.resolve_existing(f"{WEIGHTS}.onnx") is None:
        raise UserError(
            f"embed.remove_background=true: the weights of rembg are not in {U2netHumanSegSession.model_dir()}, and "
            "nothing is downloaded unasked: fetch them once (176 MB) with "
            f"python -c \"import rembg; rembg.new_session('{WEIGHTS}')\", {_OTHERWISE}"
        )
    try:
        return rembg.remove, rembg.new_session(WEIGHTS, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own kinds, of no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"embed.remove_background=true: {U2netHumanSegSession.resolve_existing(f'{WEIGHTS}.onnx')} cannot be "
            f"loaded ({reason}): delete it and fetch it again, {_OTHERWISE}"
        ) from error
