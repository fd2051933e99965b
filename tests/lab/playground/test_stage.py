"""``stage=playground`` from the command line, on a tiny random Stable Diffusion."""

import json
import os
import signal

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs import cli
from avatar_gs.identity.embedding import IdentityEmbedding, write_identity
from avatar_gs.lab.playground import loop
from avatar_gs.lab.playground.fields import FieldKind
from tests import tiny

# view words that leave the tiny prior room for a prompt
WORDING = [
    "prior.prompts.style=mini",
    "prior.prompts.identity_framings=[body,head,upper,lower]",
    "prior.prompts.identity_views=[front,side,back]",
]
FILES = {"strip.png", "video.mp4", "final.png", "curves.png", "curves.json"}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture
def play(prior, tmp_path, monkeypatch):
    """Runs the command in an empty folder and returns the run's folder."""
    monkeypatch.chdir(tmp_path)

    def command(*words, name="anna", code=0):
        common = [f"prior={prior}", "device=cpu", "threads=1", "playground.steps=3", "playground.every=1"]
        named = [f"name={name}"] if name else []
        given = ["stage=playground", "prompt=a man in red", *common, *WORDING, *named, *words]
        assert cli.main(given) == code
        return tmp_path / "outputs" / name

    return command


def write_image(path, size=(24, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def names(folder):
    return {path.name for path in folder.iterdir()}


def curves(folder, method):
    return json.loads((folder / "curves.json").read_text())["methods"][method]["curves"]


def test_the_stage_writes_its_files_and_no_run_settings(play):
    folder = play("guidance=sds") / "playground"
    assert names(folder) == FILES
    assert names(folder.parent) == {"playground"}
    strip = pixels(folder / "strip.png")
    assert strip.shape[0] > 3 * 128 and strip.shape[1] > 4 * 128
    assert pixels(folder / "final.png").shape == (tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)
    assert len(np.unique(pixels(folder / "curves.png").reshape(-1, 3), axis=0)) > 3
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(folder / "video.mp4"))
    assert frames == 4 + 11
    assert len(curves(folder, "sds")["t"]) == 3
    assert json.loads((folder / "curves.json").read_text())["methods"]["sds"]["finished"] is True


@pytest.mark.parametrize("field", FieldKind)
def test_every_field_changes(play, field):
    folder = play("guidance=csd", f"playground.field={field.name}", "playground.init=grey") / "playground"
    assert curves(folder, "csd")["distance"][-1] > 0


def test_the_same_seed_writes_the_same_bytes(play):
    first = play("guidance=vsd", "seed=2", name="a") / "playground"
    second = play("guidance=vsd", "seed=2", name="b") / "playground"
    other = play("guidance=vsd", "seed=3", name="c") / "playground"
    for name in ("final.png", "strip.png", "video.mp4", "curves.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert curves(first, "vsd") == curves(second, "vsd")
    assert (first / "final.png").read_bytes() != (other / "final.png").read_bytes()


def test_two_methods_make_one_comparison_sheet(play):
    folder = play("playground.methods=[sds,hifa]") / "playground"
    assert names(folder) == {"sds", "hifa", "curves.png", "curves.json", "comparison.png"}
    assert names(folder / "sds") == names(folder / "hifa") == {"strip.png", "video.mp4", "final.png"}
    sheet = pixels(folder / "comparison.png")
    assert sheet.shape[0] > 2 * 128 and sheet.shape[1] > 4 * 128
    assert (folder / "sds" / "final.png").read_bytes() != (folder / "hifa" / "final.png").read_bytes()
    again = play("guidance=sds") / "playground"  # leaves nothing of the comparison behind
    assert {path.name for path in again.iterdir() if path.is_file()} == FILES
    assert not any((again / "hifa").iterdir())


def test_a_sweep_makes_a_sheet_of_its_runs(play):
    folder = play("-m", "guidance=sds,csd")
    assert names(folder) - {"multirun.yaml"} == {"guidance=sds", "guidance=csd", "comparison.png"}
    assert names(folder / "guidance=sds" / "playground") == FILES


@pytest.mark.parametrize("method", ["dds", "pds"])
def test_editing_starts_from_the_image(play, tmp_path, method):
    source = write_image(tmp_path / "source.png")
    words = [
        "playground.init=image",
        f"playground.image={source}",
        "playground.source_prompt=a man in blue",
    ]
    kept = play(f"guidance={method}", *words, "prompt=a man in blue", name="kept") / "playground"
    moved = play(f"guidance={method}", *words, name="moved") / "playground"
    # one text for both: nothing to edit, not even by rounding
    assert curves(kept, method)["grad_norm"][0] == pytest.approx(0, abs=1e-4)
    assert curves(moved, method)["grad_norm"][0] > 100 * curves(kept, method)["grad_norm"][0]


def test_pose_map_and_view_change_the_result(play):
    words = ["guidance=csd", "playground.steps=1"]
    with_map = play(*words, name="a") / "playground" / "final.png"
    without = play(*words, "playground.control=false", name="b") / "playground" / "final.png"
    behind = play(*words, "playground.azimuth=180", "playground.framing=head", name="c") / "playground" / "final.png"
    assert len({path.read_bytes() for path in (with_map, without, behind)}) == 3


def test_an_identity_changes_the_result(play, tmp_path):
    metadata = {"base_model": "custom", "text_width": "16", "tokens": "1"}
    results = []
    for seed in (0, 1):
        rows = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
        write_identity(tmp_path / f"{seed}.safetensors", IdentityEmbedding(rows, metadata))
        words = ["prompt=<id>", f"identity={tmp_path / f'{seed}.safetensors'}", "guidance=csd"]
        results.append(play(*words, name=f"p{seed}") / "playground" / "final.png")
    assert results[0].read_bytes() != results[1].read_bytes()


def test_ctrl_c_writes_the_results_so_far(play, monkeypatch):
    distill = loop.Objective.distill

    def interrupted(self, canvas, step, *arguments):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return distill(self, canvas, step, *arguments)

    monkeypatch.setattr(loop.Objective, "distill", interrupted)
    folder = play("playground.methods=[csd,sds]", code=130) / "playground"
    assert (folder / "csd" / "strip.png").exists() and not (folder / "sds").exists()
    assert json.loads((folder / "curves.json").read_text())["methods"]["csd"]["finished"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["playground.init=image", "playground.image=nobody.png"], "nobody.png: no such file"),
        (["playground.init=image", "playground.image=words.png"], "not a JPEG, PNG, WebP, TIFF"),
        (["playground.methods=[sds,foo]"], "playground.methods=foo is none of"),
        (["playground.steps=0"], "playground.steps=0"),
        (["guidance=pds"], "pds edits an image: add"),
    ],
)
def test_user_errors_are_one_line(play, tmp_path, capsys, words, message):
    (tmp_path / "words.png").write_text("words")
    play(*words, code=1)
    line = capsys.readouterr().err.strip()
    assert message in line and "\n" not in line
