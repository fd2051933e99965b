"""Locate the files of a prior and check that they are complete, before any library opens them.

The libraries' own errors about missing or broken files are pages long and seldom name the file; these are one line.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, try_to_load_from_cache

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR, PEOPLE_PRIOR
from avatar_gs.prior.config import Prediction, PriorConfig
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.weight_files import as_safetensors, check_no_pointer, check_safetensors, unfinished

PACKAGED = {"mini": MINI_PRIOR, "people": PEOPLE_PRIOR}
"""Folders of the packaged priors, by ``prior.name``."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CONFIG_FILES = {
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
COMPONENTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")
"""Subfolders of every prior's folder; a ControlNet may be in another."""
SECOND_TEXT = ("tokenizer_2", "text_encoder_2")
"""Further subfolders of a Stable Diffusion XL."""
WITH_WEIGHTS = ("text_encoder", "vae", "unet", "controlnet", "text_encoder_2")
HUB_TIMEOUT = 8
"""Seconds."""
PICKLED = ".bin"
PREFERRED_VARIANT = "fp16"
"""Among variants of weights, where there are no plain ones."""


@dataclass(frozen=True)
class Source:
    """The place of one component: a folder or hub name, with the subfolder ("" for none)."""

    name: str
    subfolder: str
    is_local: bool
    variant: str | None = None
    """Infix of the weight files' names, such as ``fp16``."""
    offline: bool = False
    """Whether a hub name is read from the local cache only, as the hub cannot be reached."""
    layout: str = ""
    """The packaged layout that a single file is read with ("" for folders and hub names)."""
    latent_size: int = 0
    """Side of the latents, if it is another than the layout's (0: it is the layout's)."""

    def arguments(self) -> dict[str, str | bool | None]:
        """Keyword arguments of every ``from_pretrained``."""
        return {"subfolder": self.subfolder, "local_files_only": self.is_local or self.offline}

    def weights_arguments(self) -> dict[str, str | bool | None]:
        """Keyword arguments of networks' ``from_pretrained``."""
        return {**self.arguments(), "use_safetensors": True, "variant": self.variant}

    def folder(self, component: str) -> Path | None:
        """The local folder with the component's files; None if the hub's cache has none of them."""
        if self.is_local:
            return Path(self.name) / self.subfolder
        file = cached_file(self.name, self.subfolder, config_file(component))
        return file.parent if file else None

    def weight_files(self, component: str) -> list[Path]:
        """The local files that the component's weights are loaded from; empty if they are not here yet."""
        if self.layout:
            return [Path(self.name)]
        folder = self.folder(component)
        if folder is None:
            return []
        names = [file.name for file in folder.iterdir() if file.is_file()]
        return [folder / name for name in choose_weights(names, weights_stem(component), ".safetensors")[1]]


def locate(config: PriorConfig) -> dict[str, Source]:
    """The source of each component by name, after checking all local files.

    Pickled weights are converted to safetensors copies, which the sources then name.

    Raises:
        UserError: if a folder is missing or incomplete, or holds damaged weights or pickles of more than tensors.
    """
    base = config.path or str(PACKAGED.get(config.name, MINI_PRIOR))
    if single_file.is_single_file(base):
        sources = _of_single_file(Path(base).expanduser(), config)
    else:
        sources = {name: _source(base, name, "prior.path") for name in COMPONENTS}
        if _has_second_text(base, sources["unet"]):
            sources |= {name: _source(base, name, "prior.path") for name in SECOND_TEXT}
        if config.tokenizer:
            folder = single_file.find_tokenizer(Path(base), config.tokenizer)
            sources["tokenizer"] = Source(str(folder), "", is_local=True)
        if sources["unet"].is_local:
            _check_prior_folder(Path(sources["unet"].name))
    if config.controlnet:
        sources["controlnet"] = _replacement(config.controlnet, "controlnet")
    else:
        sources["controlnet"] = _included_controlnet(base, sources["unet"])
    if config.vae:
        sources["vae"] = _replacement(config.vae, "vae")
    return {name: checked(name, source) for name, source in sources.items()}


def locate_tiny(name: str) -> Source:
    """The source of a tiny autoencoder, after checking its local files.

    Raises:
        UserError: as ``locate``.
    """
    return checked("vae", _source(name, "", "prior.tiny_encoder"))


def must_be_fetched(component: str, source: Source) -> bool:
    """Whether a component's weights are not on this machine yet."""
    remote = component in WITH_WEIGHTS and not source.is_local and not source.offline
    return remote and not source.weight_files(component)


def config_file(component: str) -> str:
    """Name of a component's configuration file."""
    return CONFIG_FILES.get(component, "config.json")


def cached_file(name: str, subfolder: str, file: str) -> Path | None:
    """A model's file in the hub's cache, if it is there."""
    path = try_to_load_from_cache(name, f"{subfolder}/{file}" if subfolder else file)
    return Path(path) if isinstance(path, str) else None


def _of_single_file(file: Path, config: PriorConfig) -> dict[str, Source]:
    """Sources of the components in a single file, of its tokenizer and of its packaged scheduler."""
    readable = single_file.readable(file)
    layout = single_file.base_layout(readable, bool(config.vae), given=file)
    weights = Source(str(readable), "", is_local=True, layout=layout)
    auto = config.prediction is Prediction.auto
    prediction = single_file.stated_prediction(readable, layout) if auto else config.prediction.value
    tokenizer = single_file.find_tokenizer(file, config.tokenizer)
    return {
        "tokenizer": Source(str(tokenizer), "", is_local=True, layout=layout),
        "scheduler": Source(str(single_file.LAYOUTS / layout), "scheduler", is_local=True),
        "text_encoder": weights,
        "vae": weights,
        "unet": replace(weights, latent_size=single_file.latent_size(layout, prediction)),
    }


def _has_second_text(base: str, unet: Source) -> bool:
    """Whether a folder, or what the cache holds of a hub name, is a Stable Diffusion XL."""
    if unet.is_local:
        return (Path(unet.name) / SECOND_TEXT[1]).is_dir()
    return cached_file(base, SECOND_TEXT[1], config_file(SECOND_TEXT[1])) is not None


def _replacement(name: str, component: str) -> Source:
    """The source of a component that is given separately: a file, folder or hub name."""
    if not single_file.is_single_file(name):
        return _source(name, "", f"prior.{component}")
    file = Path(name).expanduser()
    readable = single_file.readable(file)
    find = single_file.controlnet_layout if component == "controlnet" else single_file.check_vae
    return Source(str(readable), "", is_local=True, layout=find(readable, given=file))


def _included_controlnet(base: str, unet: Source) -> Source:
    """The ControlNet inside the prior's own folder.

    Raises:
        UserError: if there is none.
    """
    source = Source(base, "controlnet", is_local=True) if unet.layout else _source(base, "controlnet", "prior.path")
    if source.is_local and not (Path(source.name) / "controlnet").is_dir():
        where = "a single file holds none" if unet.layout else "no folder 'controlnet' in it"
        known = f", for instance {single_file.CONTROLNETS[unet.layout]}" if unet.layout else ""
        raise UserError(
            f"prior.path={base}: this prior has no ControlNet ({where}), and without one nothing holds the pose: give "
            f"one with prior.controlnet=<folder, .safetensors file or hub name>{known}"
        )
    return source


def _source(name: str, subfolder: str, override: str) -> Source:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(str(folder), subfolder, is_local=True)
    if folder.is_file():
        raise UserError(
            f"{override}={name} is a file in no known format: expected a .safetensors file, a pickled one (.ckpt, .pt, "
            ".pth, .bin: read as plain tensors only), a folder in Stable Diffusion's format, or a hub name"
        )
    if HUB_NAME.fullmatch(name) and not name.startswith("."):
        return Source(name, subfolder, is_local=False, offline=_must_stay_offline(name, subfolder, override))
    raise UserError(
        f"{override}={name}: no such folder or file; expected a folder in Stable Diffusion's format, a .safetensors "
        "file, a hub name (owner/name), or a preset (prior=mini, people, sd15, sd21, sdxl)"
    )


def _must_stay_offline(name: str, subfolder: str, override: str) -> bool:
    """Ask the hub once, for seconds: without a network its own client would retry every file for minutes.

    Raises:
        UserError: if the hub cannot be reached, and the cache does not hold the model.
    """
    check_endpoint()
    if _hub_answers():
        return False
    if cached_file(name, subfolder, config_file(subfolder)):
        return True
    raise UserError(
        f"{override}={name}: no such folder, and the hub ({constants.ENDPOINT}) cannot be reached to look there; "
        "give a folder in Stable Diffusion's format or prior=mini, or fetch it (stage=fetch) where there is a network"
    )


def check_endpoint() -> None:
    """Raise UserError if HF_ENDPOINT is no address."""
    address = urlsplit(constants.ENDPOINT)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise UserError(
            f"HF_ENDPOINT={constants.ENDPOINT or 'nothing'}: expected the address of a hub or its mirror with "
            "https:// in front; set it so, or unset it"
        )


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:  # an answer all the same
        return True
    except OSError:
        return False
    return True


def _check_prior_folder(folder: Path) -> None:
    files = [f"{name}/{config_file(name)}" for name in COMPONENTS]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"prior.path={folder} is not a Stable Diffusion folder: missing {', '.join(missing)}; expected the layout "
            "that diffusers' save_pretrained writes"
        )


def checked(name: str, source: Source) -> Source:
    """Check the local files of a component.

    Returns:
        The source with the variant that its files have, or the source of a safetensors copy of its pickled weights.

    Raises:
        UserError: if a file is missing or damaged.
    """
    if source.is_local and (not source.layout or name == "tokenizer"):
        for file in (Path(source.name) / source.subfolder).iterdir():
            if file.is_file():
                check_no_pointer(file)
    folder = source.folder(name) if name in WITH_WEIGHTS and not source.layout else None
    if folder is None:
        return source
    _check_config(folder, name)
    names, stem = [file.name for file in folder.iterdir() if file.is_file()], weights_stem(name)
    variant, chosen = choose_weights(names, stem, ".safetensors")
    if chosen:
        for file in chosen if source.is_local else ():
            check_safetensors(folder / file)
        _check_all_shards(folder, chosen)
        return replace(source, variant=variant)
    _, pickled = choose_weights(names, pickled_stem(name), PICKLED)
    if pickled:
        _check_all_shards(folder, pickled)
        copy = as_safetensors([folder / file for file in pickled], f"{stem}.safetensors", [folder / "config.json"])
        return Source(str(copy.parent), "", is_local=True)
    if not source.is_local:  # loading downloads them
        return source
    begun = unfinished(folder, stem) + unfinished(folder, pickled_stem(name))
    found = f"only {begun[0]}, a download that has not ended" if begun else "none"
    raise UserError(
        f"prior: no {stem}.safetensors in {folder}: found {found}; expected the weights of the {name} as safetensors, "
        f"or pickled as {pickled_stem(name)}{PICKLED}: get the file again"
    )


def _check_config(folder: Path, component: str) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"prior: {folder} is no {component} folder: missing config.json")
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"prior: {file} is not valid JSON ({error}): get the file again") from error


def weights_stem(component: str) -> str:
    """Name of a component's weights, before ``.safetensors``."""
    return "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"


def pickled_stem(component: str) -> str:
    """Name of a component's pickled weights, before ``.bin``."""
    return "pytorch_model" if component.startswith("text_encoder") else "diffusion_pytorch_model"


def choose_weights(names: Iterable[str], stem: str, suffix: str) -> tuple[str | None, list[str]]:
    """``(variant, files)`` to load among the ``names`` of a component's files; no files if there are no weights.

    Plain ones are preferred, then half-precision ones, then the first other variant; a whole file to shards.
    """
    shard = r"(?P<{}>-\d+-of-\d+)?"
    form = re.compile(
        rf"{re.escape(stem)}{shard.format('old')}(\.(?P<variant>\w+))?{shard.format('new')}{re.escape(suffix)}"
    )
    found: dict[str, dict[bool, list[str]]] = {}
    for name in sorted(names):
        if match := form.fullmatch(name):
            is_shard = bool(match["old"] or match["new"])
            found.setdefault(match["variant"] or "", {}).setdefault(is_shard, []).append(name)
    if not found:
        return None, []
    variant = min(found, key=lambda name: (name != "", name != PREFERRED_VARIANT, name))
    return variant or None, found[variant].get(False) or found[variant][True]


def _check_all_shards(folder: Path, files: list[str]) -> None:
    match = re.search(r"-of-(\d+)", files[0])
    if match and len(files) != int(match[1]):
        raise UserError(
            f"prior: {folder} holds {len(files)} of {int(match[1])} parts of its weights ({files[0]}, …): get the "
            "others"
        )
