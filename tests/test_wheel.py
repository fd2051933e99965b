"""The wheel contains everything that the command needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_presets_body_prior_and_viewer(wheel):
    package = wheel / "avatar_gs"
    for name in (
        "conf/config.yaml",
        "conf/prior/mini.yaml",
        "body_models/free/SMPLX_NEUTRAL.npz",
        "viewer/web/viewer.js",
    ):
        assert (package / name).is_file(), name
    sources = {path.relative_to(ROOT / "avatar_gs") for path in (ROOT / "avatar_gs" / "assets").rglob("*.*")}
    assert {path for path in sources if "__pycache__" not in path.parts} <= {
        path.relative_to(package) for path in package.rglob("*")
    }
    assert not (wheel / "tests").exists()


def test_the_command_works_from_the_wheel_alone(wheel, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from avatar_gs import cli; sys.exit(cli.main())"
    command = [sys.executable, "-c", code, str(wheel), "--cfg", "job", "experiment=quick"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("stage: all\n")


def test_the_body_is_found_in_the_wheel(wheel, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from avatar_gs.body import files; print(files.find_body(None))"
    command = [sys.executable, "-c", code, str(wheel)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith(str(wheel)), result.stderr
