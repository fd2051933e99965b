"""Samples of the lifelike world: images of random people with pose map, labels, depth and captions."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.pose import Pose, random_pose
from avatar_gs.lab.people import kernels
from avatar_gs.lab.people.captions import caption, negative_caption, view_suffix
from avatar_gs.lab.people.person import Person, individuals, redressed, training_person
from avatar_gs.lab.people.rendering import Drawn, Light, project, render
from avatar_gs.lab.people.shape import free_body
from avatar_gs.lab.people.wardrobe import Dressed, Wardrobe, dress
from avatar_gs.lab.world import dataset
from avatar_gs.lab.world.views import view_of
from avatar_gs.render.cameras import orbit, sample_views
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.render.pose_map import NUM_FACE, render_keypoints, stack_keypoints, visible_points
from avatar_gs.types import Cameras, PosedBody, Views

FRAMINGS = ("body", "head", "upper", "lower", "hands")
VIEWS = ("front", "side", "back")
CAMERAS = CamerasConfig(
    body=FramingConfig(0.36, 1.04, 1.18),
    head=FramingConfig(0.34, 0.75, 1.15),
    upper=FramingConfig(0.18, 1.00, 1.25),
    lower=FramingConfig(0.12, 1.05, 1.25),
)
"""The avatar's camera sampler with fewer heads."""
FACE_AZIMUTH = 65.0
"""Degrees from the front from which the camera of a face looks at most."""
_NEVER = FramingConfig(0.0)
FACES = CamerasConfig(
    body=_NEVER, head=CAMERAS.head, upper=_NEVER, lower=_NEVER, azimuth_min=-FACE_AZIMUTH, azimuth_max=FACE_AZIMUTH
)
"""Close-ups of faces alone."""
HANDS = 0.06
"""Fraction of the views that are close-ups of a hand."""
KEY_FRACTION = (0.03, 0.22)
"""Range of the key light's fraction; the rest is ambient."""
AMBIENT_CONTRAST = (0.15, 0.5)
"""Range of the factor on the variation of a place's ambient light; 0: the same from everywhere."""
SATURATION = 0.35
"""Factor on the saturation of light."""

RIGHT_EYE, LEFT_EYE, MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)
"""OpenPose's face points around the eyes and the mouth."""
_DIRECTIONS = np.random.default_rng(0).normal(size=(64, 3))
_DIRECTIONS /= np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)


@dataclass(frozen=True)
class Sample:
    """One image with its pose map and its captions."""

    person: Person
    framing: str
    azimuth: float
    """Radians; 0 is in front of the person, positive at their left."""
    drawn: Drawn
    control: UInt8[np.ndarray, "S S 3"]
    captions: tuple[str, ...]
    face_points: Float[np.ndarray, "3 3"]
    """Right eye, left eye and mouth: x and y in pixels, and 1 if visible."""
    eye_distance: float
    """Distance between the eyes in pixels, as seen from the front."""
    degraded: bool = False

    @property
    def view(self) -> str:
        """The direction that the person is seen from."""
        return view_of(self.azimuth).value


def random_light(wardrobe: Wardrobe, rng: np.random.Generator) -> Light:
    """The light of a place, randomly rotated, mostly ambient and nearly white.

    Its mean over all directions is 1, so that an avatar, which is seen from all sides, learns ambient occlusion in
    folds but hardly any directional shading.
    """
    lights = wardrobe.assets.lights
    place = lights[sorted(lights)[int(rng.integers(len(lights)))]]
    harmonics, key = place[:9].astype(np.float64), place[9].astype(np.float64)
    grey = harmonics.mean(1, keepdims=True)
    harmonics = grey + SATURATION * (harmonics - grey)
    constant = harmonics[:1].mean()
    contrast = rng.uniform(*AMBIENT_CONTRAST)
    harmonics = np.concatenate([harmonics[:1] / constant, contrast * harmonics[1:] / constant]) / 0.282095
    harmonics = _turned(harmonics, rng.uniform(0, 2 * np.pi))
    tint = key / key.mean()
    tint = 1 + SATURATION * (tint - 1)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(15, 70))
    direction = [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    fraction, exposure = rng.uniform(*KEY_FRACTION), rng.uniform(0.9, 1.05)
    return Light(
        (exposure * (1 - 0.6 * fraction) * harmonics).astype(np.float32),
        np.array(direction, np.float32),
        (exposure * 1.2 * fraction * tint).astype(np.float32),
    )


def _turned(harmonics: Float[np.ndarray, "9 3"], angle: float) -> Float[np.ndarray, "9 3"]:
    """The light rotated about the y axis by ``angle`` radians."""
    c, s = math.cos(angle), math.sin(angle)
    turned = _DIRECTIONS @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.linalg.lstsq(_basis(_DIRECTIONS), _basis(turned) @ harmonics, rcond=None)[0]


def _basis(directions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 9"]:
    """Real spherical harmonics of degree 0 to 2 in the order of ``kernels``."""
    x, y, z = directions.T
    first = [np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x]
    second = [1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z]
    return np.stack([*first, *second, 0.546274 * (x * x - y * y)], 1)


def random_background(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The mini world's random background in linear RGB."""
    return kernels.SRGB_TO_LINEAR[dataset.random_background(rng).astype(int)]


def random_views(
    posed: PosedBody, count: int, rng: np.random.Generator, size: int, faces: float = 0.0
) -> tuple[Views, list[str]]:
    """Cameras and framings of the avatar's sampler, with some close-ups of hands.

    Args:
        faces: probability that the views are heads within ``FACE_AZIMUTH`` of the front.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    if faces and rng.random() < faces:
        views = sample_views(FACES, count, generator, posed, size)
        return views, [framing.value for framing in views.framings]
    views = sample_views(CAMERAS, count, generator, posed, size)
    framings = [framing.value for framing in views.framings]
    cameras = [views.cameras[index] for index in range(count)]
    for index in range(count):
        if rng.random() < HANDS:
            framings[index] = "hands"
            cameras[index] = hand_camera(posed, float(views.azimuth[index]), rng, size)
    together = Cameras(
        torch.cat([camera.T_camera_world for camera in cameras]),
        torch.cat([camera.K for camera in cameras]),
        size,
        size,
    )
    return replace(views, cameras=together), framings


def hand_camera(posed: PosedBody, azimuth: float, rng: np.random.Generator, size: int) -> Cameras:
    """A close-up of the hand on the side of the body that the camera is on."""
    left = math.sin(azimuth) >= 0
    points = openpose_keypoints(free_body(), posed)
    hand = points.left_hand if left else points.right_hand
    centre = hand.mean(0, keepdim=True) + 0.01 * torch.from_numpy(rng.normal(size=(1, 3)).astype(np.float32))
    span = torch.tensor([float(rng.uniform(0.26, 0.38))])
    elevation, fov = (torch.tensor([math.radians(rng.uniform(*bounds))]) for bounds in ((-10, 30), (35, 55)))
    return orbit(centre, span, torch.tensor([azimuth]), elevation, fov, size)


def control_map(
    posed: PosedBody, cameras: Cameras, index: int
) -> tuple[UInt8[np.ndarray, "S S 3"], Float[np.ndarray, "3 3"], float]:
    """The pose map of a posed person, culled by the depth of the undressed body as in optimisation.

    Returns:
        The pose map, and ``face_points`` and ``eye_distance`` of a ``Sample``.
    """
    size = cameras.width
    T, K = cameras.T_camera_world[index].numpy(), cameras.K[index].numpy()
    inverse = np.zeros((size, size), np.float32)
    screen = project(posed.vertices.numpy(), T.astype(np.float32), K.astype(np.float32))
    kernels.draw_depth(screen, free_body().faces.numpy().astype(np.int32), inverse)
    depth = np.where(inverse > 0, 1 / np.maximum(inverse, 1e-9), np.inf)
    keypoints = openpose_keypoints(free_body(), posed)
    pixels, visible = visible_points(stack_keypoints(keypoints), T, K, (size, size), depth)
    points = np.zeros((3, 3))
    for row, chosen in enumerate((RIGHT_EYE, LEFT_EYE, MOUTH)):
        points[row, :2] = pixels[-NUM_FACE:][chosen].mean(0)
        points[row, 2] = visible[-NUM_FACE:][chosen].mean() > 0.5
    eyes = (keypoints.face[RIGHT_EYE].mean(0) - keypoints.face[LEFT_EYE].mean(0)).norm()
    z = float(T[2, :3] @ keypoints.face.mean(0).numpy() + T[2, 3])
    control = render_keypoints(pixels * (512 / size), visible, 512, size)
    return control, points, float(eyes) * float(K[0, 0]) / max(z, 1e-3)


def draw_person(
    wardrobe: Wardrobe, person: Person, pose: Pose, views: Views, light: Light, background: np.ndarray
) -> tuple[Dressed, list[Drawn]]:
    """Render a person in a pose from given views."""
    dressed = dress(wardrobe, person, pose)
    cameras = views.cameras
    return dressed, [render(dressed.layers, cameras, index, light, background) for index in range(len(views))]


def random_samples(
    wardrobe: Wardrobe,
    rng: np.random.Generator,
    *,
    views: int,
    size: int,
    captions: int,
    degraded_fraction: float,
    faces: float = 0.0,
) -> list[Sample]:
    """Images of one random person, new or a named individual, each in another light.

    Args:
        views: number of images.
        size: pixels of a side.
        captions: captions per image.
        degraded_fraction: probability that an image is degraded and captioned with negative words.
        faces: probability that all images are close-ups of the face.
    """
    person, own_outfit = _somebody(wardrobe, rng)
    return samples_of(
        wardrobe, person, rng, views=views, size=size, captions=captions, degraded_fraction=degraded_fraction,
        own_outfit=own_outfit, faces=faces,
    )  # fmt: skip


def samples_of(
    wardrobe: Wardrobe,
    person: Person,
    rng: np.random.Generator,
    *,
    views: int,
    size: int,
    captions: int,
    degraded_fraction: float = 0.0,
    own_outfit: bool = False,
    faces: float = 0.0,
) -> list[Sample]:
    """Images of one person in one random pose, each in another light (arguments as of ``random_samples``).

    Args:
        own_outfit: whether a named individual is in the outfit that they are known by.
    """
    spread = 0.1 if rng.random() < 0.4 else float(rng.uniform(0.2, 0.9))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    dressed = dress(wardrobe, person, random_pose(generator, spread))
    seen, framings = random_views(dressed.posed.body, views, rng, size, faces)
    samples = []
    for index in range(views):
        drawn = render(dressed.layers, seen.cameras, index, random_light(wardrobe, rng), random_background(rng))
        azimuth = float(seen.azimuth[index])
        suffix = view_suffix(framings[index], view_of(azimuth).value)
        texts = tuple(caption(person, rng, own_outfit=own_outfit) + suffix for _ in range(captions))
        control, face_points, eye_distance = control_map(dressed.posed.body, seen.cameras, index)
        is_degraded = bool(rng.random() < degraded_fraction)
        if is_degraded:
            texts = tuple(negative_caption(rng) + (suffix if rng.random() < 0.5 else "") for _ in range(captions))
            drawn = replace(drawn, image=dataset.degraded(drawn.image, rng, blur=(2.0, 8.0)))
        samples.append(
            Sample(person, framings[index], azimuth, drawn, control, texts, face_points, eye_distance, is_degraded)
        )
    return samples


def _somebody(wardrobe: Wardrobe, rng: np.random.Generator) -> tuple[Person, bool]:
    """A random person, and whether they wear the outfit that they are known by."""
    changes = wardrobe.basis.local_changes
    if rng.random() < 1 / 4:
        known = individuals(changes)
        person = known[int(rng.integers(len(known)))]
        if rng.random() < 0.6:
            return person, True
        return redressed(person, rng), False
    return training_person(rng, changes), False
