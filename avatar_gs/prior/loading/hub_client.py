"""The private parts of huggingface_hub that downloads need; ``tests/prior/test_hub_client.py`` checks them.

The public client downloads a file from its start when another process began it; resuming needs its ``http_get``.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import constants
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers


def model_folder(name: str) -> Path:
    """The folder of a model in the hub's cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def blob_lock(name: str, etag: str) -> AbstractContextManager[object]:
    """The lock that the public client takes while it writes the blob ``etag`` of a model."""
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / model_folder(name).name / f"{etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return WeakFileLock(lock)


def append(url: str, target: BinaryIO, size: int | None, label: str) -> None:
    """Download the bytes of ``url`` from ``target.tell()`` on, with retries and a progress bar."""
    http_get(
        url,
        target,
        resume_size=target.tell(),
        headers=build_hf_headers(),
        expected_size=size,
        displayed_filename=label,
    )
