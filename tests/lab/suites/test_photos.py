"""suite=likeness: an avatar compared with photos, with a real judge where its weights can be made here."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.lab.metrics.avatar import to_bytes
from avatar_gs.lab.metrics.clip import load_clip
from avatar_gs.lab.metrics.faces import Faces, load_faces
from avatar_gs.lab.metrics.photos import PhotoMetrics, by_view
from avatar_gs.lab.metrics.views import neutral_body
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import likeness as report
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts
from tests.lab.metrics.test_clip import save_clip
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance


class Found:
    """Stands for YuNet and SFace, whose weights cannot be made here: a row of ``rows`` for every image, in which the
    mean colour (blue, green, red) is who it is."""

    def __init__(self, rows: list[list[float]] | None) -> None:
        self.rows, self.size = rows, (0, 0)

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, image: np.ndarray) -> tuple[int, np.ndarray | None]:
        assert self.size == (image.shape[1], image.shape[0])
        return 1, None if self.rows is None or not image.any() else np.array(self.rows, np.float32)

    def alignCrop(self, image: np.ndarray, face: np.ndarray) -> np.ndarray:
        x, y, width, height = (int(value) for value in face[:4])
        return image[y : y + height, x : x + width]

    def feature(self, aligned: np.ndarray) -> np.ndarray:
        return aligned.reshape(-1, 3).mean(0, keepdims=True)


def faces_of(*rows: list[float]) -> Faces:
    found = Found([[*row[:4], *[0.0] * 10, row[4]] for row in rows])
    return Faces(found, found)


def test_the_most_certain_face_counts_and_colours_are_in_opencvs_order():
    image = np.zeros((8, 12, 3), np.uint8)
    image[:4, :4], image[4:, 4:] = (255, 0, 0), (0, 0, 200)
    who = faces_of([0, 0, 4, 4, 0.7], [4, 4, 8, 4, 0.9]).embedding(image)
    assert who is not None
    np.testing.assert_allclose(who, [1, 0, 0])  # blue, of unit length
    who = faces_of([0, 0, 4, 4, 0.95], [4, 4, 8, 4, 0.9]).embedding(image)
    assert who is not None
    np.testing.assert_allclose(who, [0, 0, 1])
    assert Faces(Found(None), Found(None)).embedding(image) is None


def test_face_weights_are_never_fetched_and_what_is_wrong_is_named(tmp_path):
    assert load_faces("") is None
    with pytest.raises(UserError, match=r"no face_detection_yunet\*\.onnx there; fetch it from https://"):
        load_faces(str(tmp_path))
    (tmp_path / "face_detection_yunet_2023mar.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"face_recognition_sface"):
        load_faces(str(tmp_path))
    (tmp_path / "face_recognition_sface_2021dec.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="OpenCV cannot read the networks there"):
        load_faces(str(tmp_path))
    assert hasattr(cv2, "FaceRecognizerSF"), "the OpenCV that is installed has what load_faces needs"


def test_each_view_has_its_nearest_photo_and_faces_only_where_they_are_seen(tmp_path):
    clip = load_clip(str(save_clip(tmp_path)))
    rng = np.random.default_rng(0)
    photos = rng.uniform(0.2, 1, (3, 16, 16, 3)).astype(np.float32)
    renders = np.concatenate([photos[1:2], np.zeros((1, 16, 16, 3), np.float32)])
    figures = by_view(renders, photos, ["front", "back"], PhotoMetrics(clip, None, faces_of([0, 0, 16, 16, 0.9])))
    front = figures["similarity"]["views"]["front"]
    assert front["nearest"] == pytest.approx(1, abs=1e-5) and front["mean"] < 1 and front["photos"] == 3
    assert figures["LPIPS"] is None
    assert figures["face"]["views"]["back"] is None and figures["face"]["views"]["front"]["nearest"] == pytest.approx(1)
    assert figures["face"]["mean"] == figures["face"]["views"]["front"]["mean"]
    same = np.concatenate([photos[:1]] * 2)
    among = by_view(renders, same, ["front", "back"], PhotoMetrics(clip, None, None))["similarity"]["photos"]
    assert among == pytest.approx(1, abs=1e-5)


# ---- a run


def run_settings(**options) -> LabSettings:
    settings = lab_settings(
        prompt="a man in a red shirt",
        name="anna",
        guidance=plain_guidance(method="sds"),
        splats=SplatsConfig(count=300),
        optimize=OptimizeConfig(steps=1, batch=1, preview_every=0),
    )
    return lab_settings(settings, **options)


def test_a_run_is_compared_with_photos_of_itself(prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = run_settings()
    with RunFolder.open(settings.folder, settings.plain()) as run:
        optimize(settings.training, neutral_body("cpu"), prior, run_prompts(settings.training, prior), run)
        run.record("optimize")
    clip = str(save_clip(tmp_path / "clip"))
    config = EvaluateConfig(clip=clip)
    likeness = run_settings(suite=SuiteName.likeness, photos="photos", evaluate=config)
    renders = report._renders(likeness)
    write_photos(tmp_path / "photos", renders[:2])
    text = run_suite(likeness, prior, tmp_path / "report", ["stage=evaluate", "suite=likeness"]).read_text()
    figures = json.loads((tmp_path / "report/results.json").read_text())["figures"]
    similarity = figures["measures"]["similarity"]
    views = [f"{framing.value}/{side}" for framing, side in report.VIEWS]
    assert list(similarity["views"]) == views and figures["photos"] == ["0.png", "1.png"]
    assert all(similarity["views"][view]["nearest"] == pytest.approx(1, abs=1e-4) for view in views[:2])
    assert figures["measures"]["LPIPS"] is None and figures["measures"]["face"] is None
    assert text.count("not given") >= 4 * len(views) and "photos among themselves" in text
    assert (tmp_path / "report/sheet.png").stat().st_size > 5_000


def write_photos(folder: Path, images: np.ndarray) -> None:
    folder.mkdir()
    for index, image in enumerate(to_bytes(images)):
        Image.fromarray(image).save(folder / f"{index}.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "give name="),
        ({"photos": ""}, "photos=<folder"),
        ({"name": "nobody"}, "holds no avatar"),
    ],
)
def test_what_is_missing_is_said(options, message, prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = run_settings(**{"suite": SuiteName.likeness, "photos": "photos", **options})
    with pytest.raises(UserError, match=message):
        run_suite(settings, prior, tmp_path / "report", [])
    assert not (tmp_path / "report/results.md").exists()
