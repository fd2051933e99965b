"""The one view that the playground looks from: its words, its pose map and its camera."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import Body
from avatar_gs.body.pose import a_pose
from avatar_gs.lab.playground.config import PlaygroundConfig
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import view_buckets
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.pose_map import body_depth, render_pose_map
from avatar_gs.types import Bucket, Framing


@dataclass(frozen=True)
class View:
    """``control`` is the pose map in [0, 1] (None: the ControlNet stays out), ``camera`` a flat ``T_camera_world``."""

    bucket: Bucket
    control: Float[Tensor, "1 S S 3"] | None
    camera: Float[Tensor, "1 16"]


@torch.no_grad()
def chosen_view(config: PlaygroundConfig, prompts: PromptConfig, body: Body, size: int) -> View:
    """The A-pose in the framing and from the side that ``config`` names, at ``size`` pixels."""
    posed = body.pose(a_pose())
    views = fixed_views(posed, [Framing(config.framing.value)], [config.azimuth], size)
    control = None
    if config.control:
        depth = body_depth(posed, views.cameras)
        control = render_pose_map(openpose_keypoints(body, posed), views.cameras, depth, size=size)
    return View(view_buckets(views, prompts)[0], control, views.cameras.T_camera_world.flatten(1))
