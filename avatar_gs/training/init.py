"""The avatar of ``init=<run>``: a run may start from another run's checkpoint instead of the body's surface."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state
from avatar_gs.core.runs import RunFolder
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import RestSurface
from avatar_gs.training.config import TrainingConfig
from avatar_gs.training.state import group

LOGGER = logging.getLogger(__name__)

BODY_TOLERANCE = 0.005
"""Largest mean distance in metres between an avatar's anchors and its body; points sampled on the same surface are
about 3 mm from the nearest point that represents it, or on one."""


@dataclass(frozen=True)
class InitAvatar:
    """A frozen avatar to start from."""

    model: GaussianModel
    unit: Float[Tensor, ""]
    """Median initial size of the splats in its own run, in metres."""
    digest: str
    """Hexadecimal digits that change with the avatar."""

    def copy(self, config: SplatsConfig) -> GaussianModel:
        """The same avatar, trainable."""
        return GaussianModel.from_config(config, self.model.tensors())


def load_init(config: TrainingConfig, body: Body) -> InitAvatar:
    """The avatar of the newest checkpoint of the run ``config.init``.

    Raises:
        UserError: if there is none, it is damaged, or it was made on another body.
    """
    folder = RunFolder(config.init)
    path = folder.avatar_checkpoint
    if not folder.holds_avatar():
        raise UserError(
            f"init={config.init}: no avatar is there (no {path}); expected the folder of a run that has one"
        )
    if not folder.finished("optimize"):
        LOGGER.warning("init=%s is not finished: starting from the avatar of its last checkpoint", config.init)
    tensors, _ = load_state(path)
    splats = group(tensors, "splats")
    model = GaussianModel.from_config(config.splats, splats)
    _check_body(path, model, body)
    model = model.to(body.template.device)
    for parameter in model.params.values():
        parameter.requires_grad_(False)
    return InitAvatar(model, tensors["density/unit"].to(model.device), digest(splats))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that change with any byte of the tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + value.numpy().tobytes())
    return total.hexdigest()[:16]


def _check_body(path: Path, model: GaussianModel, body: Body) -> None:
    """Raise UserError unless the avatar's anchors lie on the body's surface, and its skinning weights sum to 1."""
    nearest = RestSurface(body.rest()).distances(model.params["anchors"])
    sums = model.params["skinning"].sum(-1)
    if float(nearest.mean()) > BODY_TOLERANCE or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise UserError(
            f"{path}: its avatar was made on another body than {body.path} (its splats belong "
            f"{1000 * float(nearest.mean()):.0f} mm away from it); give the body.path and body.betas of its config.yaml"
        )
