"""The face detector: faces from the front and none from behind, on people and colours that its training never saw."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avatar_gs.core.errors import UserError
from avatar_gs.lab.scorer.data import float_images
from avatar_gs.lab.scorer.faces import (
    BACK,
    CLASSES,
    FEATURES,
    FRONT,
    THRESHOLD,
    FaceNet,
    Heads,
    draw_heads,
    face_score,
    load_detector,
    soft,
    with_face,
    without_face,
)
from avatar_gs.lab.train_prior.training import package_small
from avatar_gs.lab.world import rendering as pic

FRONT_RATE, BACK_RATE = 0.95, 0.02


@pytest.fixture(scope="module")
def heads() -> Heads:
    return draw_heads(24, 4321, held=True, front=FRONT, back=BACK)


def seen_fraction(heads: Heads, label: str, *, blurred: bool = False) -> float:
    images = float_images(heads.images[heads.classes == CLASSES.index(label)])
    scores = face_score(soft(images, 3, 1.5) if blurred else images)
    assert scores.shape == (len(images),) and ((scores >= 0) & (scores <= 1)).all()
    return float((scores > THRESHOLD).float().mean())


@pytest.mark.parametrize("blurred", [False, True])
def test_fronts_show_a_face_and_backs_do_not(heads, blurred):
    assert (heads.classes == CLASSES.index("front")).sum() >= 20
    assert (heads.classes == CLASSES.index("back")).sum() >= 20
    assert seen_fraction(heads, "front", blurred=blurred) >= FRONT_RATE
    backs = int((heads.classes == CLASSES.index("back")).sum())
    assert seen_fraction(heads, "back", blurred=blurred) * backs <= 1 + BACK_RATE * backs, (
        "few images: one may be bad luck"
    )


def test_features_decide_and_not_hair_or_skin(heads):
    """A front without features is no face; features on the hair of a back are one."""
    assert seen_fraction(heads, "painted over") < 0.1
    assert seen_fraction(heads, "face on the back") > 0.9


def test_faces_at_other_sizes_and_plain_images(heads):
    fronts = float_images(heads.images[heads.classes == 0][:20])
    larger = torch.nn.functional.interpolate(fronts.permute(0, 3, 1, 2), (256, 256), mode="bilinear")
    assert (face_score(larger.permute(0, 2, 3, 1)) > THRESHOLD).float().mean() >= 0.9
    assert face_score(torch.stack([torch.zeros(128, 128, 3), torch.full((128, 128, 3), 0.7)])).max() < THRESHOLD


def test_faces_are_painted_over_and_pasted():
    rng = np.random.default_rng(0)
    parts = np.full((32, 32), pic.SKIN, np.uint8)
    parts[10:14, 6:12], parts[20:22, 10:20] = pic.EYE, pic.MOUTH
    front = pic.PartMap(parts, np.full((32, 32), 250, np.uint8), np.zeros((32, 32), np.float32))
    assert not np.isin(without_face(front).parts, FEATURES).any()
    hair = np.full((32, 32), pic.HAIR, np.uint8)
    hair[:, 8] = pic.BACKGROUND
    both = with_face(dataclasses.replace(front, parts=hair), front, rng)
    wanted = np.isin(parts, FEATURES)
    wanted[:, 8] = False
    assert (np.isin(both.parts, FEATURES) == wanted).all()


def test_packaged_weights_are_read_back_and_others_refused(tmp_path):
    torch.manual_seed(0)
    net = FaceNet()
    package_small(net, tmp_path / "faces.safetensors")
    images = torch.rand(3, 128, 128, 3)
    again = face_score(images, load_detector(tmp_path / "faces.safetensors"))
    assert torch.allclose(again, torch.sigmoid(net(images)), atol=1e-3)
    save_file({"layers.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"state": "null"})
    with pytest.raises(UserError, match="face detector"):
        load_detector(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is not there"):
        load_detector(tmp_path / "missing.safetensors")
