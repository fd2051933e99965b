"""Values shared by the parts of the program.

Conventions: metres and radians; quaternions are wxyz; cameras are OpenCV (x right, y down, z forward); transforms are
named ``T_target_source``. The world is SMPL-X's: +y up, the avatar faces +z, its left hand is at +x. Image coordinates
are pixels with half-pixel centres. Images are ``[B, H, W, 3]``, float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from avatar_gs.core.lazy import Float, Int, Tensor, torch

NUM_JOINTS = 55
"""Joints of SMPL-X."""
SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)): a colour is ``SH_C0 * sh0 + 0.5``."""


class Framing(str, Enum):
    """The part of the body that a camera frames."""

    BODY = "body"
    HEAD = "head"
    UPPER = "upper"
    LOWER = "lower"


class ViewDirection(str, Enum):
    """The side from which a camera sees the avatar, as named in prompts."""

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
    """A batch of pinhole cameras of one image size."""

    T_camera_world: Float[Tensor, "B 4 4"]
    """Maps world points to the OpenCV camera frame."""
    K: Float[Tensor, "B 3 3"]
    """Intrinsics in pixels (half-pixel centres)."""
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.T_camera_world)

    def __getitem__(self, index: int) -> "Cameras":
        return replace(self, T_camera_world=self.T_camera_world[index][None], K=self.K[index][None])

    def to(self, device: "torch.device | str") -> "Cameras":
        return replace(self, T_camera_world=self.T_camera_world.to(device), K=self.K.to(device))

    def resized(self, width: int, height: int) -> "Cameras":
        """The same cameras with images of another size (scaled intrinsics)."""
        K = self.K.clone()  # scaled by Python numbers: a tensor of factors would synchronise a GPU
        K[:, 0] *= width / self.width
        K[:, 1] *= height / self.height
        return replace(self, K=K, width=width, height=height)


@dataclass(frozen=True)
class Views:
    """Cameras with their framing and their position around the avatar."""

    cameras: Cameras
    framings: tuple[Framing, ...]
    azimuth: Float[Tensor, " B"]
    """0 in front of the avatar, +pi/2 at its left hand (+x)."""
    elevation: Float[Tensor, " B"]
    """Positive above."""

    def __len__(self) -> int:
        return len(self.framings)


@dataclass(frozen=True)
class Correctives:
    """SMPL-X's pose blend shapes in one pose, which are added before skinning."""

    rest: Float[Tensor, "V 3"]
    """Vertices in the rest pose, in metres."""
    offsets: Float[Tensor, "V 3"]
    """Their offsets in the rest pose's frame, in metres."""


@dataclass(frozen=True)
class PosedBody:
    """A body in one pose."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    joints: Float[Tensor, "55 3"]
    T_posed_rest: Float[Tensor, "55 4 4"]
    """Linear-blend-skinning transforms from the rest (zero) pose to this pose (SMPL-X's ``A`` matrices)."""
    correctives: Correctives | None = None
    """None for a body without them (the free body)."""


@dataclass(frozen=True)
class Keypoints:
    """OpenPose keypoints in world metres: 18 body (COCO order with neck), 21 per hand, 70 face (68 and two pupils)."""

    body: Float[Tensor, "18 3"]
    left_hand: Float[Tensor, "21 3"]
    right_hand: Float[Tensor, "21 3"]
    face: Float[Tensor, "70 3"]


@dataclass(frozen=True)
class Gaussians:
    """Activated splats in the frame in which they are rendered: scales in metres, opacities and colours in [0, 1]."""

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    colors: Float[Tensor, "N 3"]

    def __len__(self) -> int:
        return len(self.means)

    def detach(self) -> "Gaussians":
        return Gaussians(*(values.detach() for values in vars(self).values()))


@dataclass(frozen=True)
class Render:
    """Output of the rasteriser."""

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    """Expected depth in metres, 0 where alpha is 0."""
    info: dict[str, Any]
    """What gsplat's strategies read: ``means2d, radii, depths, conics, width, height, n_cameras, …``"""

    def detached(self) -> "Render":
        """The images without graph and ``info``, for keeping."""
        return Render(self.rgb.detach(), self.alpha.detach(), self.depth.detach(), {})
