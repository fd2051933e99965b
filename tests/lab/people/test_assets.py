"""The asset pack: errors, and the content of a complete one."""

import shutil

import numpy as np
import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.lab.people.assets import TINT_LEVEL, Assets, checksums, luminance_only
from avatar_gs.lab.people.vocabulary import HAIR_STYLES, SHOES, SUITS


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"people\.assets=.*nowhere: no such folder"):
        Assets(tmp_path / "nowhere")


def test_missing_and_altered_files_are_reported(pack, tmp_path):
    copy = shutil.copytree(pack, tmp_path / "pack", copy_function=shutil.copy)
    copy.chmod(0o755)
    (copy / "tex").chmod(0o755)
    file = copy / "tex" / "fedora.webp"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"tex/fedora\.webp is not the file of the asset pack"):
        Assets(copy)
    file.unlink()
    with pytest.raises(UserError, match=r"tex/fedora\.webp is missing"):
        Assets(copy)


def test_the_pack_matches_the_vocabulary(pack):
    assets = Assets(pack)
    assert len(checksums(pack)) == 84
    assert set(SUITS) == set(assets.names("suit")) and set(SHOES) == set(assets.names("shoes"))
    assert set(HAIR_STYLES) == set(assets.names("hair"))
    for name, suit in SUITS.items():
        garment = assets.garment(name)
        assert garment.part is not None and garment.hides_top is not None and garment.hides_bottoms is not None
        assert len(garment.ref) == garment.faces.max() + 1 and len(garment.uv) == garment.uv_faces.max() + 1
        assert assets.has_colour(name) == bool(suit.top_colour)


def test_garments_follow_the_body(pack):
    garment = Assets(pack).garment("shoes01")
    rng = np.random.default_rng(0)
    body = rng.uniform(-1, 1, (19158, 3)).astype(np.float32)
    moved = garment.fit(body + np.array([0.1, -0.2, 0.3], np.float32))
    assert np.allclose(moved, garment.fit(body) + np.array([0.1, -0.2, 0.3]), atol=1e-3)
    assert np.allclose(garment.fit(2 * body), 2 * garment.fit(body), atol=1e-3), "offsets grow with the body"


def test_tinted_textures_have_a_median_brightness():
    pixels = np.random.default_rng(0).integers(20, 255, (32, 32, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    grey = luminance_only(pixels)
    assert (grey[..., 0] == grey[..., 1]).all() and abs(np.median(grey[..., 0]) - TINT_LEVEL) <= 2
