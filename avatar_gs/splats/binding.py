"""How splats of a finished avatar follow the body: skinning weights of the places that they have moved to.

While an avatar is optimised its splats keep the weights of the points that they started from. Some end up on another
limb, or off the skin between limbs (sleeves, skirts, hair), and tear away in poses far from the one that they were
optimised in. So each takes the weights of the nearest point of the skin, and off the skin the weights are diffused
among neighbouring splats, so that cloth and hair stay together.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix, diags
from torch import Tensor

from avatar_gs.geometry import matrix_to_quat, quat_multiply
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points
from avatar_gs.splats.posing import Triangles, blend_transforms, nearest_rotation
from avatar_gs.types import Gaussians, PosedBody

NEIGHBOURS = 8
REACH = 0.02
"""Metres to the farthest splat that counts as a neighbour."""
WIDTH = 0.015
"""Standard deviation in metres of the neighbours' influence."""
OFF_SKIN = 0.02
"""Metres above the skin from which a splat is pulled in full; on the skin it has the skin's weights."""
PULL, ROUNDS = 0.8, 20
"""Fraction of its neighbours' weights that a splat takes in each round."""


class BoundModel(GaussianModel):
    """An avatar with other weights, which stands in the pose that it was optimised in exactly as before."""

    def __init__(
        self, model: GaussianModel, rest: PosedBody, standing: PosedBody, weights: Float[Tensor, "V 55"]
    ) -> None:
        """Bind an avatar to the skin below its splats.

        Args:
            model: on the body's device.
            rest: its body in the zero pose.
            standing: its body in the pose of the optimisation.
            weights: the body's skinning weights.
        """
        trained = model.pose(standing)
        means = model.params["means"].detach()
        surface = Triangles(rest.vertices, rest.faces)
        attachment = surface.attach(means)
        anchors = attachment.interpolate(rest.vertices)
        skinning = diffused(attachment.interpolate(weights), means, (means - anchors).norm(dim=1))
        blended = blend_transforms(skinning, standing.T_posed_rest).double()
        linear = blended[:, :3, :3]
        means = torch.linalg.solve(linear, trained.means.double() - blended[:, :3, 3]).to(means)
        if standing.correctives is not None:
            means = means - surface.attach(anchors).interpolate(standing.correctives.offsets)  # as pose() adds them
        back = matrix_to_quat(nearest_rotation(linear).transpose(1, 2)).to(means)
        bound = {
            "means": means,
            "quats": quat_multiply(back, trained.quats),
            "skinning": skinning,
            "anchors": anchors,
        }
        super().__init__(model.tensors() | bound, model.min_scale, model.max_scale)
        self._trained, self._rotations = model, standing.T_posed_rest[:, :3, :3]

    def pose(self, posed: PosedBody) -> Gaussians:
        if torch.equal(posed.T_posed_rest[:, :3, :3], self._rotations):
            return self._trained.pose(posed)
        return super().pose(posed)


@torch.no_grad()
def diffused(
    weights: Float[Tensor, "N J"], means: Float[Tensor, "N 3"], heights: Float[Tensor, " N"]
) -> Float[Tensor, "N J"]:
    """Skinning weights that splats off the skin share with their neighbours; every row's sum stays 1.

    Args:
        weights: of the nearest points of the skin.
        means: at rest, metres.
        heights: metres from the skin.
    """
    count = len(means)
    own = (weights / weights.sum(1, keepdim=True)).double().cpu().numpy()
    if count < 2:
        return torch.from_numpy(own).to(weights)
    distances, index = (values.cpu().numpy() for values in Points(means).nearest(means, min(NEIGHBOURS + 1, count)))
    distances, index = distances[:, 1:].astype(float), index[:, 1:]
    influence = np.exp(-0.5 * (distances / WIDTH) ** 2) * (distances < REACH)
    total = influence.sum(1)
    rows = np.repeat(np.arange(count), index.shape[1])
    average = csr_matrix((influence.ravel(), (rows, index.ravel())), shape=(count, count))
    pull = PULL * np.clip(heights.double().cpu().numpy() / OFF_SKIN, 0, 1) * (total > 0)
    mixing = diags(pull / np.where(total > 0, total, 1)) @ average
    values = own
    for _ in range(ROUNDS):
        values = (1 - pull)[:, None] * own + mixing @ values
    return torch.from_numpy(values / values.sum(1, keepdims=True)).to(weights)
