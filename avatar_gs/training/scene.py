"""The scene of one step: pose, cameras, pose maps, light and backgrounds, all a function of (seed, step)."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import Body
from avatar_gs.body.pose import Pose, a_pose, random_pose
from avatar_gs.core.seeding import generator
from avatar_gs.prior.prompts import view_buckets
from avatar_gs.render.cameras import fixed_views, sample_views, subject
from avatar_gs.render.pose_map import body_depth, body_surfels, render_pose_map
from avatar_gs.render.shading import Lighting, sample_lighting
from avatar_gs.training.config import Background, PoseMap, PoseMode, TrainingConfig
from avatar_gs.training.noise_field import NoiseField
from avatar_gs.types import Bucket, Cameras, Framing, PosedBody, Views

PREVIEW_FRAMINGS = (Framing.BODY, Framing.BODY, Framing.BODY, Framing.HEAD)
PREVIEW_AZIMUTHS = (0.0, 90.0, 180.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """Everything that a render shows or depends on, except the splats."""

    posed: PosedBody
    views: Views
    """Views with cameras at the prior's image size."""
    cameras: Cameras
    """The same cameras at the size of the renders (``optimize.supersample``)."""
    depth: Float[Tensor, "B D D"]
    """Depth of the undressed body in metres, 0 where it is empty."""
    pose_maps: Float[Tensor, "B S S 3"]
    backgrounds: Float[Tensor, "B 3"]
    buckets: Sequence[Bucket]
    """The bucket of prompts of each view."""
    lighting: Lighting | None = None
    """None: the albedo is rendered."""
    environment: bool = False
    """Whether the learned background replaces ``backgrounds``."""
    noise: Float[Tensor, "B c h w"] | None = None
    """Noise that stays over the steps (``guidance.noise``); None: it is independent in every step."""


class Scenes:
    """The scenes of a run. As a context manager, it prepares the next scene in a thread: pose maps leave a core idle.

    Args:
        size: the prior's image size in pixels.
        noise: of the steps; None: it is independent in every step.
    """

    def __init__(self, body: Body, config: TrainingConfig, size: int, noise: NoiseField | None = None) -> None:
        self.body, self.config, self.size, self.noise = body, config, size, noise
        self.standing = body.pose(a_pose())
        self.device = body.template.device
        self._standing_surfels = body_surfels(self.standing)
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[Scene]] = {}

    def __enter__(self) -> "Scenes":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scenes")
        return self

    def __exit__(self, error_type: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def at(self, step: int) -> Scene:
        """The scene of a step; starts preparing the next one."""
        future = self._ahead.pop(step, None)
        scene = future.result() if future is not None else self.make(step)
        if self._pool is not None and step + 1 < self.config.optimize.steps:
            self._ahead = {step + 1: self._pool.submit(self.make, step + 1)}
        return scene

    def wait(self) -> None:
        """Wait until the next scene is prepared."""
        for future in self._ahead.values():
            future.result()

    @torch.no_grad()
    def make(self, step: int) -> Scene:
        """The scene of a step, from scratch."""
        config, seed = self.config.optimize, self.config.seed
        posed = self.standing
        if config.poses is PoseMode.random:
            pose = random_pose(generator(seed, step, "pose"), config.pose_spread)
            posed = self.body.pose(pose.to(self.device))
        views = sample_views(self.config.cameras, config.batch, generator(seed, step, "cameras"), posed, self.size)
        backgrounds = random_backgrounds(len(views), generator(seed, step, "background"))
        scene = self._scene(posed, views, backgrounds.to(self.device), config.supersample)
        noise = None if self.noise is None else self.noise.at(step, posed, views.cameras, scene.depth)
        lighting, environment = self._lighting(step, scene), self._environment(step)
        return replace(scene, lighting=lighting, environment=environment, noise=noise)

    @torch.no_grad()
    def preview(self, pose: Pose | None = None) -> Scene:
        """A pose (default: the A-pose) from the front, the left, the back and close to the face, on grey."""
        posed = self.standing if pose is None else self.body.pose(pose)
        views = fixed_views(posed, PREVIEW_FRAMINGS, PREVIEW_AZIMUTHS, self.size)
        return self._scene(posed, views, torch.full((len(views), 3), 0.5, device=self.device))

    def _lighting(self, step: int, scene: Scene) -> Lighting | None:
        shading = self.config.optimize.shading
        if not shading.probability:
            return None
        random = generator(self.config.seed, step, "lighting")
        centres = torch.stack([subject(scene.posed, framing)[0] for framing in scene.views.framings])
        progress = step / self.config.optimize.steps
        return sample_lighting(shading, progress, scene.views.cameras, centres.to(self.device), random)

    def _environment(self, step: int) -> bool:
        if self.config.optimize.background is not Background.learned:
            return False
        chance = float(torch.rand((), generator=generator(self.config.seed, step, "environment")))
        return chance >= self.config.optimize.environment.random_share

    def _scene(self, posed: PosedBody, views: Views, backgrounds: Tensor, supersample: int = 1) -> Scene:
        surfels = self._standing_surfels if posed is self.standing else body_surfels(posed)
        depth = body_depth(posed, views.cameras, surfels=surfels)
        full = self.config.optimize.pose_map is PoseMap.full
        keypoints = openpose_keypoints(self.body, posed)
        pose_maps = render_pose_map(keypoints, views.cameras, depth, size=self.size, hands=full, face=full)
        cameras = views.cameras.resized(self.size * supersample, self.size * supersample)
        return Scene(posed, views, cameras, depth, pose_maps, backgrounds, view_buckets(views, self.config.prompts))


def random_backgrounds(count: int, random: torch.Generator) -> Float[Tensor, "count 3"]:
    """Plain greys with a tint, from dark to white, as behind most images that the packaged prior was trained on."""
    grey = 0.15 + 0.85 * torch.rand(count, 1, generator=random)
    return (grey + 0.05 * torch.randn(count, 3, generator=random)).clamp(0, 1)
