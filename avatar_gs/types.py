"""The frozen values that flow between the parts, and the protocols that parts are known by.

Units are metres and radians; quaternions are wxyz; cameras are OpenCV (x right, y down, z forward); the
world is SMPL-X's (+y up, the avatar faces +z, its left hand at +x). Images are ``[B, H, W, 3]`` in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_JOINTS = 55
"""Joints of SMPL-X."""
SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)): a colour is ``SH_C0 * sh0 + 0.5``."""


class Framing(str, Enum):
    """Which part of the body a camera looks at."""

    BODY = "body"
    HEAD = "head"
    UPPER = "upper"
    LOWER = "lower"


class ViewDirection(str, Enum):
    """The side from which a camera sees the avatar, as prompts name it."""

    FRONT = "front"
    SIDE = "side"
    BACK = "back"
    OVERHEAD = "overhead"


class Bucket(NamedTuple):
    """Framing and direction of a view. All views of one bucket share their prompts, and what is learned per view.

    As text: ``head/back``.
    """

    framing: Framing
    direction: ViewDirection

    def __str__(self) -> str:
        return f"{self.framing.value}/{self.direction.value}"


@dataclass(frozen=True)
class BucketPrompt:
    """The prompts of one bucket of views."""

    positive: str
    negative: str
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Prompts that only some guidance methods use, by name: ``source`` (the avatar before an edit), ``identity`` (the
    person without clothes or view), ``corrupt`` (the prompt with words for degraded images)."""


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras that share one picture size.

    ``T_camera_world`` maps world points to the OpenCV camera frame; ``K`` is in pixels (half-pixel centres).
    """

    T_camera_world: Float[Tensor, "B 4 4"]
    K: Float[Tensor, "B 3 3"]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.T_camera_world)

    def __getitem__(self, index: int) -> "Cameras":
        return replace(self, T_camera_world=self.T_camera_world[index][None], K=self.K[index][None])

    def to(self, device: torch.device | str) -> "Cameras":
        return replace(self, T_camera_world=self.T_camera_world.to(device), K=self.K.to(device))

    def resized(self, width: int, height: int) -> "Cameras":
        """The same cameras with pictures of another size (intrinsics scaled)."""
        K = self.K.clone()  # numbers: a tensor of the factors would have to wait for a GPU
        K[:, 0] *= width / self.width
        K[:, 1] *= height / self.height
        return replace(self, K=K, width=width, height=height)


@dataclass(frozen=True)
class Views:
    """Cameras with what was asked of them: framing, and where they stand around the avatar.

    ``azimuth`` is 0 in front of the avatar, +pi/2 at its left hand (+x); ``elevation`` is positive above.
    """

    cameras: Cameras
    framings: tuple[Framing, ...]
    azimuth: Float[Tensor, " B"]
    elevation: Float[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.framings)


@dataclass(frozen=True)
class Correctives:
    """What a pose adds to the body before it is skinned (SMPL-X's pose blend shapes), in metres."""

    rest: Float[Tensor, "V 3"]
    """The vertices in the rest pose."""
    offsets: Float[Tensor, "V 3"]
    """How far the pose moves each of them, in the rest pose's frame."""


@dataclass(frozen=True)
class PosedBody:
    """A body in one pose. ``T_posed_rest`` are the linear-blend-skinning transforms of the 55 SMPL-X joints:
    they take points of the rest (zero) pose to this pose (SMPL-X's ``A`` matrices)."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    joints: Float[Tensor, "55 3"]
    T_posed_rest: Float[Tensor, "55 4 4"]
    correctives: Correctives | None = None
    """None for a body that has none (the free body)."""


@dataclass(frozen=True)
class Keypoints:
    """OpenPose keypoints: 18 body (COCO order with neck), 21 a hand, 70 face (68 + two pupils).

    The positions are world metres ``[..., 3]``.
    """

    body: Float[Tensor, "18 3"]
    left_hand: Float[Tensor, "21 3"]
    right_hand: Float[Tensor, "21 3"]
    face: Float[Tensor, "70 3"]


@dataclass(frozen=True)
class Gaussians:
    """Activated splats in the frame that they are drawn in: scales in metres, opacities and colours in [0, 1]."""

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    colors: Float[Tensor, "N 3"]

    def __len__(self) -> int:
        return len(self.means)

    def detach(self) -> "Gaussians":
        return Gaussians(
            self.means.detach(),
            self.quats.detach(),
            self.scales.detach(),
            self.opacities.detach(),
            self.colors.detach(),
        )


@dataclass(frozen=True)
class Render:
    """What the rasteriser returns. ``depth`` is expected depth in metres (0 where nothing is);
    ``info`` holds what gsplat's strategies need (``means2d, radii, depths, conics, width, height, n_cameras, …``)."""

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    info: dict[str, Any]

    def detached(self) -> "Render":
        """The images alone, without a graph or what made them, to be kept."""
        return Render(self.rgb.detach(), self.alpha.detach(), self.depth.detach(), {})
