"""Settings of the body."""

import math
from dataclasses import dataclass, field
from typing import Optional

from avatar_gs.core.errors import UserError


@dataclass
class BodyConfig:
    """The body and its shape."""

    path: Optional[str] = None
    """A body in the SMPL-X file layout (``.npz``). None: ``body_models/smplx/SMPLX_NEUTRAL.npz`` if it exists, else the
    free body shipped with the program."""
    betas: list[float] = field(default_factory=list)
    """Shape coefficients, -10 to 10; missing ones are 0. For the free body's see ``body_models/README.md``."""
    output: str = "outputs/body/SMPLX_NEUTRAL.npz"
    """Output file (``.npz``) of ``stage=body``, which rebuilds the free body."""

    def __post_init__(self) -> None:
        for value in self.betas:
            if not math.isfinite(value) or abs(value) > 10:
                raise UserError(
                    f"body.betas: found {value}, expected finite numbers between -10 and 10 (0 is the mean body)"
                )
        for name, path in (("path", self.path), ("output", self.output)):
            if path is not None and not path.endswith(".npz"):
                raise UserError(
                    f"body.{name}={path}: expected an .npz file in the SMPL-X layout (a .pkl body is never "
                    "loaded: get the .npz of SMPL-X v1.1, or leave body.path out for the free body)"
                )
