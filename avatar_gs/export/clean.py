"""What is taken out of the splats before anything is written, so that every viewer can draw the files."""

import logging

import torch

from avatar_gs.core.errors import UserError
from avatar_gs.export.config import ExportConfig
from avatar_gs.types import Gaussians

_log = logging.getLogger(__name__)


def clean(gaussians: Gaussians, config: ExportConfig) -> Gaussians:
    """Drops splats that are invisible or not finite, clamps scales and colours, and makes quaternions unit.

    The order of the others stays. Splats that were not finite are reported in the log.

    Raises:
        UserError: if nothing is left.
    """
    gaussians = gaussians.detach()
    parts = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities[:, None], gaussians.colors)
    finite = torch.stack([torch.isfinite(part).all(-1) for part in parts]).all(0)
    finite &= gaussians.quats.norm(dim=-1) > 0
    # An opacity of exactly 0 has no logit.
    keep = finite & (gaussians.opacities >= config.min_opacity) & (gaussians.opacities > 0)
    if not finite.all():
        _log.warning("%d of %d splats are not finite and are left out", int((~finite).sum()), len(gaussians))
    if not keep.any():
        raise UserError(
            f"none of the {len(gaussians)} splats has finite values and an opacity of at least "
            f"export.min_opacity={config.min_opacity}: train longer, or lower export.min_opacity"
        )
    return Gaussians(
        means=gaussians.means[keep],
        quats=torch.nn.functional.normalize(gaussians.quats[keep], dim=-1),
        scales=gaussians.scales[keep].clamp(config.min_scale, config.max_scale),
        opacities=gaussians.opacities[keep].clamp(max=1.0),
        colors=gaussians.colors[keep].clamp(0.0, 1.0),
    )
