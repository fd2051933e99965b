"""What one step looks at: a pose, cameras, pose maps, light and backgrounds, all a function of (seed, step)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import Body
from avatar_gs.body.pose import a_pose, random_pose
from avatar_gs.core.seeding import generator
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import view_buckets
from avatar_gs.render.cameras import fixed_views, sample_views, subject
from avatar_gs.render.config import CamerasConfig
from avatar_gs.render.pose_map import body_depth, body_surfels, render_pose_map
from avatar_gs.render.shading import Lighting, sample_lighting
from avatar_gs.training.config import Background, OptimizeConfig, PoseMap, PoseMode
from avatar_gs.types import Bucket, Framing, PosedBody, Views

PREVIEW_FRAMINGS = (Framing.BODY, Framing.BODY, Framing.BODY, Framing.HEAD)
PREVIEW_AZIMUTHS = (0.0, 90.0, 180.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """One step's subject, without the splats."""

    posed: PosedBody
    views: Views
    pose_maps: Float[Tensor, "B S S 3"]
    backgrounds: Float[Tensor, "B 3"]
    buckets: Sequence[Bucket]
    """The bucket of prompts of each view."""
    lighting: Lighting | None = None
    """None: the albedo is drawn as it is."""
    environment: bool = False
    """Whether the learned background stands in for ``backgrounds``."""


class Scenes:
    """The scenes of a run. One is prepared ahead in a thread, since drawing pose maps leaves a core idle."""

    def __init__(
        self,
        body: Body,
        config: OptimizeConfig,
        cameras: CamerasConfig,
        prompts: PromptConfig,
        *,
        size: int,
        seed: int,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self.body, self.config, self.cameras, self.prompts = body, config, cameras, prompts
        self.size, self.seed = size, seed
        self.standing = body.pose(a_pose())
        self._standing_surfels = body_surfels(self.standing)
        self.device = body.template.device
        self._pool = pool
        self._ahead: dict[int, Future[Scene]] = {}

    def at(self, step: int) -> Scene:
        """The scene of a step; the next one is begun in the background."""
        future = self._ahead.pop(step, None)
        scene = future.result() if future is not None else self.make(step)
        if self._pool is not None and step + 1 < self.config.steps:
            self._ahead = {step + 1: self._pool.submit(self.make, step + 1)}
        return scene

    @torch.no_grad()
    def make(self, step: int) -> Scene:
        """The scene of a step, from scratch."""
        posed = self.standing
        if self.config.poses is PoseMode.random:
            pose = random_pose(generator(self.seed, step, "pose"), self.config.pose_spread)
            posed = self.body.pose(pose.to(self.device))
        views = sample_views(self.cameras, self.config.batch, generator(self.seed, step, "cameras"), posed, self.size)
        backgrounds = random_backgrounds(len(views), generator(self.seed, step, "background"))
        scene = self._scene(posed, views, backgrounds.to(self.device))
        return replace(scene, lighting=self._lighting(step, scene), environment=self._environment(step))

    @torch.no_grad()
    def preview(self) -> Scene:
        """The A-pose from the front, the left, the back and close to the face, on grey."""
        views = fixed_views(self.standing, PREVIEW_FRAMINGS, PREVIEW_AZIMUTHS, self.size)
        return self._scene(self.standing, views, torch.full((len(views), 3), 0.5, device=self.device))

    def _lighting(self, step: int, scene: Scene) -> Lighting | None:
        if not self.config.shading.probability:
            return None
        random = generator(self.seed, step, "lighting")
        centres = torch.stack([subject(scene.posed, framing)[0] for framing in scene.views.framings])
        return sample_lighting(
            self.config.shading, step / self.config.steps, scene.views.cameras, centres.to(self.device), random
        )

    def _environment(self, step: int) -> bool:
        if self.config.background is not Background.learned:
            return False
        chance = float(torch.rand((), generator=generator(self.seed, step, "environment")))
        return chance >= self.config.environment.random_share

    def _scene(self, posed: PosedBody, views: Views, backgrounds: Tensor) -> Scene:
        surfels = self._standing_surfels if posed is self.standing else body_surfels(posed)
        depth = body_depth(posed, views.cameras, surfels=surfels)
        full = self.config.pose_map is PoseMap.full
        keypoints = openpose_keypoints(self.body, posed)
        pose_maps = render_pose_map(keypoints, views.cameras, depth, size=self.size, hands=full, face=full)
        return Scene(posed, views, pose_maps, backgrounds, view_buckets(views, self.prompts))


def random_backgrounds(count: int, random: torch.Generator) -> Float[Tensor, "count 3"]:
    """Plain greys with a tint, from dark to white, as behind most pictures that the packaged prior was trained on."""
    grey = 0.15 + 0.85 * torch.rand(count, 1, generator=random)
    return (grey + 0.05 * torch.randn(count, 3, generator=random)).clamp(0, 1)


@contextmanager
def prepared_scenes(
    body: Body, config: OptimizeConfig, cameras: CamerasConfig, prompts: PromptConfig, *, size: int, seed: int
) -> Iterator[Scenes]:
    """``Scenes`` with a thread that works ahead until the block ends."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="scenes")
    try:
        yield Scenes(body, config, cameras, prompts, size=size, seed=seed, pool=pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
