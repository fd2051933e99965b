"""Download a prior from the hub into its ordinary cache: only the files that are loaded, resuming interrupted ones.

Each file grows under a name of its own, which the next command finds, and becomes a blob of the cache once complete.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.prior.config import Encoder, PriorConfig
from avatar_gs.prior.loading import hub_client
from avatar_gs.prior.loading.sources import (
    COMPONENTS,
    HUB_NAME,
    PICKLED,
    SECOND_TEXT,
    WITH_WEIGHTS,
    Source,
    check_endpoint,
    checked,
    choose_weights,
    config_file,
    pickled_stem,
    weights_stem,
)

LOGGER = logging.getLogger(__name__)

TEXT_FILES = (".json", ".txt")
SPARE = 1 << 30
"""Bytes to be left free on the disk."""
PART = ".avatar-gs.incomplete"
"""Suffix of a file that is not complete yet."""
SHA256_LENGTH = 64
NETWORK_MODULES = ("httpx", "httpcore", "requests", "urllib3")


def fetch(config: PriorConfig) -> int:
    """Download every part of a prior that is a hub name, and convert weights that exist as pickles only.

    Returns:
        The number of files that were not in the cache yet.

    Raises:
        UserError: nothing is a hub name; a model does not exist, is gated or has no weights; the hub cannot be reached;
            the disk is too small; a pickle holds more than plain tensors.
    """
    repositories = _repositories(config)
    plans = {}
    for override, name, components in repositories:
        files = _listing(override, name)
        if override == "prior.path" and f"{SECOND_TEXT[1]}/{config_file(SECOND_TEXT[1])}" in files:
            components = (*components, *SECOND_TEXT)
        plans[override, name] = {
            file: files[file] for component in components for file in _chosen(override, name, component, files)
        }
    missing = {key: {f: size for f, size in plan.items() if not _is_cached(key[1], f)} for key, plan in plans.items()}
    copies = sum(size for plan in missing.values() for file, size in plan.items() if file.endswith(PICKLED))
    _check_disk(sum(size for plan in missing.values() for size in plan.values()) + copies)
    for (override, name), plan in missing.items():
        for index, (file, size) in enumerate(sorted(plan.items(), key=lambda item: item[1]), 1):
            LOGGER.info("%s: file %d of %d, %s (%s)", name, index, len(plan), file, format_bytes(size))
            _download(override, name, file)
        LOGGER.info("%s is complete in %s", name, constants.HF_HUB_CACHE)
    for override, name, components in repositories:
        for component in components:
            checked(component or override.removeprefix("prior."), Source(name, component, is_local=False))
    return sum(map(len, missing.values()))


def format_bytes(size: int) -> str:
    """A readable size in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _repositories(config: PriorConfig) -> list[tuple[str, str, tuple[str, ...]]]:
    """``(override, hub name, components)`` of each model to download; "" is a component in a model's top folder."""
    given = {"prior.path": config.path, "prior.controlnet": config.controlnet, "prior.vae": config.vae}
    if config.encoder is Encoder.tiny:
        given["prior.tiny_encoder"] = config.tiny_encoder
    of_path = [name for name in COMPONENTS if not (name == "vae" and config.vae)]
    of_path += [] if config.controlnet else ["controlnet"]
    chosen = []
    for override, name in given.items():
        if not name:
            continue
        if Path(name).expanduser().exists():
            LOGGER.info("%s=%s is here: nothing to fetch", override, name)
        elif HUB_NAME.fullmatch(name) and not name.startswith("."):
            chosen.append((override, name, tuple(of_path) if override == "prior.path" else ("",)))
        else:
            raise UserError(f"{override}={name}: no such folder or file, and no hub name (owner/name)")
    if chosen:
        check_endpoint()
    else:
        raise UserError(
            f"prior={config.name}: nothing to fetch, all of it is here; prior=sd15, sd21, sdxl or prior=<hub name> are "
            "downloaded"
        )
    return chosen


def _listing(override: str, name: str) -> dict[str, int]:
    """Sizes in bytes of a model's files."""
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(name, files_metadata=True)
    except Exception as error:
        raise _as_user_error(override, name, error) from error
    return {entry.rfilename: entry.size or 0 for entry in info.siblings or []}


def _chosen(override: str, name: str, component: str, files: Mapping[str, int]) -> list[str]:
    """The files of one component that are loaded: texts and weights, as safetensors if possible."""
    folder = f"{component}/" if component else ""
    inside = {file.removeprefix(folder) for file in files if file.startswith(folder)}
    inside = {file for file in inside if "/" not in file}
    texts = {file for file in inside if file.endswith(TEXT_FILES) and ".index." not in file}
    config = config_file(component)
    if config not in inside:
        hint = "; its ControlNet: prior.controlnet=<hub name>" if component == "controlnet" else ""
        raise UserError(
            f"{override}={name}: this model has no {folder}{config}: expected one in diffusers' format{hint}"
        )
    if component and component not in WITH_WEIGHTS:
        return sorted(folder + file for file in texts)
    stem = weights_stem(component)
    variant, weights = choose_weights(inside, stem, ".safetensors")
    if weights:
        index = (
            {f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"} & inside if len(weights) > 1 else set()
        )
        return sorted(folder + file for file in {*texts, *weights, *index})
    _, pickled = choose_weights(inside, pickled_stem(component), PICKLED)
    if pickled:
        return sorted(folder + file for file in {*texts, *pickled})
    raise UserError(
        f"{override}={name}: no weights in it: expected {folder}{stem}.safetensors, or "
        f"{pickled_stem(component)}{PICKLED}"
    )


def _is_cached(name: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(name, file), str)


def _check_disk(needed: int) -> None:
    place = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + SPARE > free:
        raise UserError(
            f"{format_bytes(needed)} are to be fetched into {place}, where {format_bytes(free)} are free: make room, "
            "or set HF_HOME to a larger disk"
        )


def _download(override: str, name: str, file: str) -> None:
    url = hf_hub_url(name, file, endpoint=constants.ENDPOINT)
    try:
        metadata = get_hf_file_metadata(url, endpoint=constants.ENDPOINT)
        if metadata.etag:
            blob = hub_client.model_folder(name) / "blobs" / metadata.etag
            blob.parent.mkdir(parents=True, exist_ok=True)
            with hub_client.blob_lock(name, metadata.etag):
                _complete(url, blob, metadata.size, file)
        hf_hub_download(name, file, endpoint=constants.ENDPOINT)  # finds the blob, and links the file to it
    except UserError:
        raise
    except Exception as error:
        raise _as_user_error(override, name, error) from error


def _complete(url: str, blob: Path, size: int | None, file: str) -> None:
    """Download the missing bytes of a blob.

    Raises:
        UserError: if the file has another hash than the hub states; it is removed then.
    """
    if blob.exists():
        return
    part = blob.with_name(f"{blob.name}{PART}")
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()
    with part.open("ab") as target:
        here = target.tell()
        if here:
            LOGGER.info("%s: going on after %s", file, format_bytes(here))
        hub_client.append(url, target, size, file)
    if len(blob.name) == SHA256_LENGTH and _sha256(part) != blob.name:  # small files have another type of tag
        part.unlink()
        raise UserError(f"{url}: the download is damaged, and was removed; the same command fetches it again")
    part.rename(blob)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _as_user_error(override: str, name: str, error: Exception) -> Exception:
    """Map an exception of the hub or the network to a UserError; return others unchanged."""
    hub = constants.ENDPOINT
    where = f"{override}={name}"
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{where}: this model is gated: accept its terms on {hub}/{name}, then `hf auth login` (or set HF_TOKEN) "
            "and give the same command"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{where}: no such model on {hub}, or a private one (`hf auth login`): check the name, or give a "
            "mirror of it"
        )
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return UserError(f"{where}: HF_HUB_OFFLINE is set, so nothing can be fetched: unset it, or give a folder")
    if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        reason = first_line(error)
        return UserError(f"{where}: {hub} answers: {reason}; the same command resumes the download")
    if isinstance(error, OSError | LocalEntryNotFoundError) or type(error).__module__.startswith(NETWORK_MODULES):
        return UserError(
            f"{where}: {hub} cannot be reached, or stopped answering ({type(error).__name__}): check the network, or "
            "set HF_ENDPOINT to a mirror; the same command resumes the download"
        )
    return error
