"""Widens splats to the resolution at which they were trained, so that closer views show fewer holes.

The rasteriser blurs every splat by ``BLUR`` squared pixels. An avatar is trained with that blur at the prior's
resolution; a viewer that shows it larger blurs less, and gaps open between the splats. The blur is therefore added to
the splats themselves, as in Mip-Splatting's 3D smoothing filter (Yu et al. 2024, arXiv:2311.16493, section 5.1).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.body.pose import a_pose
from avatar_gs.render.cameras import subject
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.types import Framing, PosedBody

BLUR = 0.3
"""Squared pixels that rasterisers add to the variance of every projected splat (Kerbl et al. 2023, gsplat's eps2d)."""


def footprints(means: Float[Tensor, "N 3"], posed: PosedBody, cameras: CamerasConfig, size: int) -> Float[Tensor, " N"]:
    """Metres that a pixel of the renders covers, in the closest framing in which the optimisation saw each splat.

    Args:
        means: of the splats on the posed body, in metres.
        cameras: of the optimisation; framings that it never sampled do not count.
        size: side of its renders in pixels.
    """
    closest = means.new_full((len(means),), torch.inf)
    for framing in Framing:
        config: FramingConfig = getattr(cameras, framing.value)
        if not config.probability:
            continue
        centre, height = subject(posed, framing)
        span = height * (config.span_min + config.span_max) / 2
        # Cameras look from all sides, so that only the height decides whether one shows a splat.
        shown = (means[:, 1] - centre[1]).abs() < span / 2
        closest = torch.where(shown, closest.clamp(max=span / size), closest)
    return torch.where(closest.isfinite(), closest, 0.0)


@torch.no_grad()
def widened(model: GaussianModel, body: Body, cameras: CamerasConfig, size: int) -> GaussianModel:
    """A copy of the avatar with ``BLUR`` squared pixels added to the variance of each splat along every axis.

    Args:
        cameras, size: of the optimisation, as of ``footprints``.
    """
    posed = body.pose(a_pose())
    added = BLUR * footprints(model.pose(posed).means, posed, cameras, size).square()[:, None]
    scales = 0.5 * (model.scales().square() + added).log()
    return GaussianModel(model.tensors() | {"scales": scales}, model.min_scale, model.max_scale)
