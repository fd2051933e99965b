"""The user's own picture to begin with."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.identity.pixels import Unusable, decode, on_grey, square


def load_picture(source: str, size: int) -> Float[Tensor, "1 size size 3"]:
    """A JPEG, PNG or WebP picture in [0, 1]: its largest square, at ``size`` pixels, on grey where it is transparent.

    Raises:
        UserError: if there is no such file, or it is no picture.
    """
    path = Path(source).expanduser()
    try:
        picture, alpha = decode(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"playground.picture={source}: no such file; expected a JPEG, PNG or WebP picture") from None
    except OSError as error:
        raise UserError(
            f"playground.picture={source}: cannot be read ({error.strerror}); expected a picture"
        ) from error
    except Unusable as reason:
        raise UserError(f"playground.picture={source}: {reason}; expected a JPEG, PNG or WebP picture") from reason
    pixels = np.asarray(square(on_grey(picture, alpha), size)).copy()
    return torch.from_numpy(pixels).float()[None] / 255
