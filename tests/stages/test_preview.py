import numpy as np
import pytest
from PIL import Image

from avatar_gs.prior.config import PriorConfig
from avatar_gs.settings import Settings
from avatar_gs.stages import preview
from tests import tiny


@pytest.fixture
def settings(tmp_path, monkeypatch):
    folder = tiny.save_prior(tmp_path / "prior")
    monkeypatch.chdir(tmp_path)
    return Settings(
        stage="preview",
        prompt="a man in red",
        negative_prompt="green",
        name="anna",
        device="cpu",
        prior=PriorConfig(name="custom", path=str(folder), control_scale=1.0),
    )


def test_one_sheet_of_pose_maps_and_samples(settings, caplog):
    with caplog.at_level("INFO", logger="avatar_gs"):
        preview.run(settings)
    with Image.open(settings.folder / "previews" / "prior.png") as file:
        pixels = np.asarray(file.convert("RGB"))
    assert pixels.shape[0] > 4 * 192 and pixels.shape[1] > (1 + preview.SAMPLES) * 192
    said = "\n".join(record.getMessage() for record in caplog.records)
    for words in ("body/front", "body/side", "body/back", "head/front", "a man in red, full body, back view"):
        assert words in said
    assert not (settings.folder / "config.yaml").exists()


def test_the_prior_is_asked_what_the_run_would_ask(settings, monkeypatch):
    asked = []

    def sample(self, prompts, negatives, control, *rest):
        asked.append((prompts, negatives, control))
        return control

    monkeypatch.setattr("avatar_gs.prior.stable_diffusion.StableDiffusionPrior.sample", sample)
    preview.run(settings)
    prompts, negatives, control = asked[0]
    assert len(asked) == preview.SAMPLES
    assert prompts[0].endswith("full body, front view") and prompts[3].endswith("close-up of the head, front view")
    assert negatives == ["green"] * 4
    assert control.shape == (4, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)
    assert (control.amax((1, 2, 3)) > 0.2).all()  # a skeleton in each
