"""Importing guidance from a checkout, written for the test."""

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.benchmarks.threestudio_fork import find_guidance, import_guidance

FILES = {
    "utils/base.py": """
        import tinycudann as tcnn
        from omegaconf import OmegaConf
        from pytorch_lightning.utilities.rank_zero import rank_zero_only
        OmegaConf.register_new_resolver("of_the_test", lambda: "{name}")
        def get_device():
            raise RuntimeError("CUDA")
        @rank_zero_only
        def loud():
            return "{name}"
    """,
    "models/prompt_processors/base.py": "from threestudio.utils.base import loud\n",
    "models/guidance/__init__.py": "raise RuntimeError('all of it')\n",
    "models/guidance/ours.py": """
        import threestudio
        from threestudio.utils import base
        @threestudio.register("ours")
        class Guidance:
            device = base.get_device()
    """,
}


def write_checkout(folder: Path, name: str, **more: str) -> Path:
    for path, text in {**FILES, **more}.items():
        file = folder / name / "threestudio" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(line.removeprefix(" " * 8) for line in text.replace("{name}", name).splitlines()))
    return folder / name


def test_the_guidance_of_two_forks_is_imported_and_removed(tmp_path: Path) -> None:
    before = set(sys.modules)
    for name in ("first", "second"):
        module, prompts = import_guidance(write_checkout(tmp_path, name), name, "ours", torch.device("cpu"))
        assert module.Guidance.device == torch.device("cpu")
        assert prompts.loud() == name
    tops = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not tops & {"threestudio", "tinycudann", "pytorch_lightning"}
    assert OmegaConf.clear_resolver("of_the_test")


def test_a_wrong_checkout_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere: no such folder; expected a checkout of Theirs"):
        find_guidance(tmp_path / "nowhere", "Theirs", "ours")
    with pytest.raises(SystemExit, match=r"no checkout of Theirs: expected its guidance in .*guidance/ours\.py"):
        import_guidance(tmp_path, "Theirs", "ours", torch.device("cpu"))


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("import no_such_package", "Theirs's guidance needs no_such_package, which is not installed"),
        ("import threestudio.utils.other", "needs threestudio.utils.other, which is not in this checkout"),
        ("from torch import no_such_name", "does not fit what is installed: cannot import name 'no_such_name'"),
    ],
)
def test_missing_requirements_are_reported(tmp_path: Path, needs: str, message: str) -> None:
    checkout = write_checkout(tmp_path, "theirs", **{"models/guidance/ours.py": needs})
    with pytest.raises(SystemExit, match=message) as stop:
        import_guidance(checkout, "Theirs", "ours", torch.device("cpu"))
    assert "\n" not in str(stop.value) and "threestudio" not in sys.modules
