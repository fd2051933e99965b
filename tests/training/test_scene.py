"""Scenes are a function of (seed, step), whether prepared ahead or not."""

from dataclasses import replace

import torch

from avatar_gs.core.seeding import derive_seed, generator
from avatar_gs.training.config import OptimizeConfig, PoseMap, PoseMode, TrainingConfig
from avatar_gs.training.scene import Scenes

CONFIG = TrainingConfig(seed=1, optimize=OptimizeConfig(steps=5, batch=3, poses=PoseMode.random))


def same(first, second):
    return (
        torch.equal(first.posed.vertices, second.posed.vertices)
        and torch.equal(first.views.cameras.T_camera_world, second.views.cameras.T_camera_world)
        and torch.equal(first.pose_maps, second.pose_maps)
        and torch.equal(first.backgrounds, second.backgrounds)
        and first.buckets == second.buckets
    )


def test_scenes_do_not_depend_on_earlier_scenes(body):
    with Scenes(body, CONFIG, 32) as scenes:
        running = [scenes.at(step) for step in range(4)]
    fresh = Scenes(body, CONFIG, 32)
    assert same(running[3], fresh.at(3)) and same(running[1], fresh.at(1))
    assert not same(running[2], running[3])
    assert not same(Scenes(body, replace(CONFIG, seed=2), 32).at(3), running[3])


def test_a_scene_fits_its_settings(body):
    scene = Scenes(body, CONFIG, 32).at(0)
    assert scene.pose_maps.shape == (3, 32, 32, 3) and len(scene.buckets) == len(scene.views) == 3
    assert scene.backgrounds.min() >= 0 and scene.backgrounds.max() <= 1
    assert scene.pose_maps.flatten(1).amax(1).min() > 0.2, "every view shows some keypoints"


def test_fixed_poses_are_the_a_pose(body):
    scenes = Scenes(body, TrainingConfig(seed=1, optimize=OptimizeConfig(poses=PoseMode.fixed)), 32)
    assert torch.equal(scenes.at(7).posed.vertices, scenes.standing.vertices)


def test_the_preview_shows_front_side_back_and_face(body):
    scene = Scenes(body, CONFIG, 32).preview()
    assert list(map(str, scene.buckets)) == ["body/front", "body/side", "body/back", "head/front"]


def test_generators_differ_by_seed_step_and_purpose():
    seeds = {derive_seed(*key) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}
    assert len(seeds) == 4 and all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(torch.rand(3, generator=generator(1, 2, "x")), torch.rand(3, generator=generator(1, 2, "x")))


def test_pose_maps_of_the_body_alone(body):
    full, alone = (
        Scenes(body, replace(CONFIG, optimize=replace(CONFIG.optimize, pose_map=choice)), 64).preview().pose_maps
        for choice in (PoseMap.full, PoseMap.body)
    )
    head = 3
    assert (full[head] - alone[head]).abs().sum() > 1, "face points are white dots close to the head"
    assert (alone.amax((1, 2, 3)) > 0.2).all()
