"""huggingface_hub still has the private functions that downloads use, with the arguments that they are given."""

import inspect
from pathlib import Path

from huggingface_hub import constants, file_download

from avatar_gs.prior.loading import hub_client


def test_http_get_appends_to_an_open_file():
    parameters = inspect.signature(file_download.http_get).parameters
    assert list(parameters)[:2] == ["url", "temp_file"]
    assert {"resume_size", "headers", "expected_size", "displayed_filename"} <= set(parameters)


def test_the_cache_names_models_as_the_public_client_does(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub_client.model_folder("owner/name") == tmp_path / "models--owner--name"
    public = inspect.getsource(file_download._hf_hub_download_to_cache_dir)
    assert '".locks"' in public and 'f"{etag}.lock"' in public and '"blobs"' in public


def test_a_lock_excludes_others_and_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for _ in range(2):
        with hub_client.blob_lock("owner/name", "tag"):
            assert Path(tmp_path / ".locks" / "models--owner--name").is_dir()
