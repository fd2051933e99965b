"""The avatar: Gaussian splats on a body at rest, bound to its joints, in gsplat's parameter layout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.posing import Attachment, Triangles, skin
from avatar_gs.types import NUM_JOINTS, SH_C0, Gaussians, PosedBody

TRAINABLE: dict[str, tuple[int, ...]] = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}
BOUND: dict[str, tuple[int, ...]] = {"skinning": (NUM_JOINTS,), "anchors": (3,), "normals": (3,)}
"""Frozen entries that densification must copy: skinning weights, the nearest point of the body's surface at rest, and
the outward normal there."""


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """Coefficients of the constant harmonic for colours in [0, 1]."""
    return (rgb - 0.5) / SH_C0


@dataclass(frozen=True)
class _Attached:
    """The anchors' attachment to a body, and the inputs that it was computed from."""

    faces: Tensor
    triangles: Triangles
    anchors: Tensor
    version: int
    """Of ``anchors``; incremented when they change in place."""
    attachment: Attachment


class GaussianModel:
    """Splats in the body's rest (zero) pose.

    ``params`` has gsplat's keys (``means`` [N, 3] metres, ``quats`` [N, 4] wxyz, ``scales`` [N, 3] log-metres,
    ``opacities`` [N] logits, ``sh0`` [N, 1, 3]) and the frozen entries of ``BOUND``.
    """

    def __init__(self, tensors: Mapping[str, Tensor], min_scale: float = 0.001, max_scale: float = 0.05) -> None:
        """Copy ``tensors``.

        Args:
            tensors: every entry of ``TRAINABLE`` and ``BOUND``.
            min_scale: smallest standard deviation in metres (``constrain``).
            max_scale: largest one.

        Raises:
            UserError: if an entry is missing or has another shape.
        """
        self.min_scale, self.max_scale = min_scale, max_scale
        self._attached: _Attached | None = None
        self.params = nn.ParameterDict()
        count = len(tensors["means"]) if "means" in tensors else 0
        for name, shape in (TRAINABLE | BOUND).items():
            if name not in tensors or tuple(tensors[name].shape) != (count, *shape):
                found = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise UserError(
                    f"splats: expected '{name}' of shape {(count, *shape)}, found {found}; is this a checkpoint?"
                )
            # Contiguous clones are aligned, so that a reloaded model computes the same bytes as the saved one.
            value = tensors[name].detach().clone(memory_format=torch.contiguous_format)
            self.params[name] = nn.Parameter(value, requires_grad=name in TRAINABLE)

    @classmethod
    def from_config(cls, config: SplatsConfig, tensors: Mapping[str, Tensor]) -> "GaussianModel":
        return cls(tensors, config.min_scale, config.max_scale)

    def __len__(self) -> int:
        return len(self.params["means"])

    @property
    def device(self) -> torch.device:
        return self.params["means"].device

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: self.params[name] for name in TRAINABLE}

    def tensors(self) -> dict[str, Tensor]:
        """Detached tensors, as the constructor takes them."""
        return {name: self.params[name].detach() for name in TRAINABLE | BOUND}

    def to(self, device: torch.device | str) -> "GaussianModel":
        moved = {name: value.to(device) for name, value in self.tensors().items()}
        return GaussianModel(moved, self.min_scale, self.max_scale)

    def opacities(self) -> Float[Tensor, " N"]:
        return self.params["opacities"].sigmoid()

    def scales(self) -> Float[Tensor, "N 3"]:
        """Standard deviations in metres."""
        return self.params["scales"].exp()

    def colors(self) -> Float[Tensor, "N 3"]:
        return SH_C0 * self.params["sh0"][:, 0] + 0.5

    def rest(self) -> Gaussians:
        """The activated splats in the rest pose."""
        quats = nn.functional.normalize(self.params["quats"], dim=-1)
        return Gaussians(self.params["means"], quats, self.scales(), self.opacities(), self.colors())

    def pose(self, posed: PosedBody) -> Gaussians:
        """The activated splats of a posed avatar, differentiable in every trainable parameter.

        If the body has pose correctives, each splat moves with its anchor on the body's surface before skinning.
        """
        means = self.params["means"]
        if posed.correctives is not None:
            means = means + self._attachment(posed).interpolate(posed.correctives.offsets.to(means))
        T_posed_rest = posed.T_posed_rest.to(self.device)
        means, quats = skin(means, self.params["quats"], self.params["skinning"], T_posed_rest)
        return Gaussians(means, quats, self.scales(), self.opacities(), self.colors())

    def _attachment(self, posed: PosedBody) -> Attachment:
        """The anchors' attachment to a body with correctives, cached until the anchors or the body change."""
        assert posed.correctives is not None
        anchors, known = self.params["anchors"], self._attached
        if known is None or known.faces is not posed.faces:
            rest = posed.correctives.rest.to(anchors)
            triangles = Triangles(rest, posed.faces.to(self.device))
        elif known.anchors is anchors and known.version == anchors._version:
            return known.attachment
        else:
            triangles = known.triangles
        attachment = triangles.attach(anchors.detach())
        self._attached = _Attached(posed.faces, triangles, anchors, anchors._version, attachment)
        return attachment

    def surface_distance(self) -> Float[Tensor, " N"]:
        """Metres from each splat to the body's surface at rest."""
        return (self.params["means"] - self.params["anchors"]).square().sum(-1).add(1e-12).sqrt()

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp parameters to their ranges after an optimiser step (a projected step).

        Colours are not clamped in the forward pass: there, a colour out of range would get no gradient.
        """
        limit = 0.5 / SH_C0
        self.params["sh0"].clamp_(-limit, limit)
        # Python numbers: 0-dimensional tensors would have to be on the splats' device.
        self.params["scales"].clamp_(math.log(self.min_scale), math.log(self.max_scale))
        self.params["quats"].div_(self.params["quats"].norm(dim=-1, keepdim=True).clamp_min(1e-8))
