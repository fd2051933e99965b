"""The judges' process: its errors, and what it finds in rendered people."""

import io
import json
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from avatar_gs.body.pose import random_pose
from avatar_gs.core.errors import UserError
from avatar_gs.lab.judges import worker
from avatar_gs.lab.judges.figures import CLEAR_FACE, SAME_PERSON, correct_joints, distance, faces_kept, overlap
from avatar_gs.lab.judges.process import Judges
from avatar_gs.lab.people.person import random_person
from avatar_gs.lab.people.rendering import render, to_linear
from avatar_gs.lab.people.samples import random_light
from avatar_gs.lab.people.wardrobe import dress
from avatar_gs.lab.suites.judged_views import BODIES, SIZE, Group, judged_views
from tests.lab.people.conftest import pack, wardrobe  # noqa: F401  fixtures

PEOPLE = 3


@pytest.mark.parametrize("python", ["/nowhere/python", "/tmp", "/bin/cat", "/bin/true"])
def test_what_is_no_interpreter_is_one_line(python):
    with pytest.raises(UserError, match=rf"^evaluate\.judges={python}: .*make judges") as caught:
        Judges(python)
    assert "\n" not in str(caught.value)


def test_missing_libraries_are_named():
    with pytest.raises(
        UserError, match=r"No module named '(mediapipe|face_recognition_models)'.*make judges"
    ) as caught:
        Judges(sys.executable)
    assert "\n" not in str(caught.value)


def test_images_travel_unchanged(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    monkeypatch.setattr(worker, "versions", lambda: {"mediapipe": "1"})
    monkeypatch.setitem(worker.JUDGES, "echo", lambda images: (images[0].tolist(), images[1:]))
    request = json.dumps({"judge": "echo", "shape": images.shape}).encode() + b"\n" + images.tobytes()
    replies = io.BytesIO()
    worker.serve(io.BytesIO(2 * request), replies)
    replies.seek(0)
    assert json.loads(replies.readline())["versions"] == {"mediapipe": "1"}
    for _ in range(2):
        message = json.loads(replies.readline())
        assert message == {"results": images[0].tolist(), "shape": [2, 4, 5, 3]}
        assert replies.read(2 * 4 * 5 * 3) == images[1:].tobytes()
    assert replies.read() == b""


def test_a_process_that_ends_is_one_line(judges_python):
    judges = Judges(judges_python)
    judges._process.kill()
    judges._process.wait()
    with pytest.raises(UserError, match=r"^evaluate\.judges=.*ended") as caught:
        for _ in range(2):  # the first request may still fit into the pipe
            judges.faces(np.zeros((1, 64, 64, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_nothing_is_found_in_noise_and_grey(judges):
    images = np.full((2, SIZE, SIZE, 3), 190, np.uint8)
    images[1] = np.random.default_rng(0).integers(0, 256, images[1].shape)
    nothing = [None, None]
    assert judges.faces(images) == judges.face_meshes(images) == judges.bodies(images) == nothing
    assert judges.identities(images) == nothing and judges.hands(images) == [[], []]
    assert judges.silhouettes(images).shape == (2, SIZE, SIZE)
    assert judges.faces(images[:0]) == [] and judges.silhouettes(images[:0]).shape == (0, SIZE, SIZE)


@pytest.fixture(scope="session")
def people(wardrobe):  # noqa: F811
    """Views, images and silhouettes of a few lifelike people."""
    shown = []
    for index in range(PEOPLE):
        rng = np.random.default_rng(index)
        pose = random_pose(torch.Generator().manual_seed(index), 0.1)
        dressed = dress(wardrobe, random_person(rng, wardrobe.basis.local_changes), pose)
        views, light = judged_views(dressed.posed.body, index, 0), random_light(wardrobe, rng)
        drawn = [render(dressed.layers, views.cameras, k, light, to_linear([190.0] * 3)) for k in range(len(views))]
        shown.append((views, np.stack([one.image for one in drawn]), np.stack([one.alpha > 0.5 for one in drawn])))
    return shown


def test_lifelike_heads_have_faces_in_front_and_none_behind(judges, people):
    for views, images, _ in people:
        front, back = images[views.of(Group.HEAD_FRONT)], images[views.of(Group.HEAD_BACK)]
        faces = judges.faces(front)
        for face in faces:
            left, top, width, height = face.box
            assert face.score >= CLEAR_FACE and 0 < left < left + width < SIZE and 0 < top < top + height < SIZE
        assert all(mesh is not None for mesh in judges.face_meshes(front))
        # the detector takes some hair for a face, but is less certain
        behind = [0.0 if face is None else face.score for face in judges.faces(back)]
        assert max(behind) < min(face.score for face in faces)
        assert judges.face_meshes(back) == [None] * len(back)


def test_lifelike_bodies_have_their_joints_and_silhouettes(judges, people):
    for views, images, silhouettes in people:
        bodies = views.of(*BODIES)
        found, joints, heads = judges.bodies(images[bodies]), views.joints(), views.head_sizes()
        counts = np.array(
            [correct_joints(one, joints[k], heads[k], SIZE) for k, one in zip(bodies, found, strict=True)]
        )
        assert counts[:, 1].tolist() == [12] * len(bodies) and counts[:, 0].sum() > 0.85 * counts[:, 1].sum()
        for k, mask in zip(bodies, judges.silhouettes(images[bodies]) > 0.5, strict=True):
            assert overlap(mask, silhouettes[k]) > 0.75


def test_identities_tell_people_apart(judges, people):
    features = [judges.identities(images[views.of(Group.HEAD_FRONT)]) for views, images, _ in people]
    for first, second in features:
        assert distance(first, second) < SAME_PERSON
    for first, second in pairwise(features):
        assert distance(first[0], second[0]) > distance(first[0], first[1])


def test_faces_are_kept_by_copies_and_lost_in_blur(judges, people):
    originals = np.concatenate([images[views.of(Group.HEAD_FRONT)] for views, images, _ in people])
    same = faces_kept(judges, originals, originals.copy())
    assert same.kept.value == 1 and same.kept.cases == len(originals) and same.score == same.kept_score
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 24) for image in originals])
    assert faces_kept(judges, originals, blurred).kept.value == 0
