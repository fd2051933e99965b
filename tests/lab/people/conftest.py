"""The asset pack and the shape basis, if available."""

import os
from pathlib import Path

import pytest

from avatar_gs.lab.people.wardrobe import Wardrobe, load_wardrobe

PACK = Path(os.environ.get("AVATAR_GS_ASSETS") or Path(__file__).parents[4] / "shared" / "human_assets")


@pytest.fixture(scope="session")
def pack() -> Path:
    """The folder of the asset pack: ``$AVATAR_GS_ASSETS``, or ``shared/human_assets`` next to the checkout."""
    if not PACK.is_dir():
        pytest.skip(f"the asset pack is not at {PACK}; AVATAR_GS_ASSETS names another folder")
    return PACK


@pytest.fixture(scope="session")
def wardrobe(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Wardrobe:
    """The wardrobe; builds the shape basis, which takes 90 s."""
    pytest.importorskip("anny")
    return load_wardrobe(pack, tmp_path_factory.mktemp("shapes"))
