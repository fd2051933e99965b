"""Where the files of a prior are, and whether they are all there, before any library opens them.

The libraries' own messages about a missing or broken file run over pages and seldom name it; these are one line.
"""

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from avatar_gs.errors import UserError
from avatar_gs.prior import single_file

PACKAGED = Path(__file__).parent / "mini"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
CONFIGS = {
    "tokenizer": "tokenizer_config.json",
    "text_encoder": "config.json",
    "vae": "config.json",
    "unet": "config.json",
    "scheduler": "scheduler_config.json",
}
SECONDS_FOR_THE_HUB = 8
WITH_WEIGHTS = ("text_encoder", "vae", "unet", "controlnet")


@dataclass(frozen=True)
class Source:
    """One component's place: ``name`` is a folder or a hub name, to be loaded from its ``subfolder`` ("" for none)."""

    name: str
    subfolder: str
    is_local: bool
    variant: str | None = None
    offline: bool = False
    """A hub name that is taken from the local cache, because the hub cannot be reached."""
    layout: str = ""
    """The packaged layout by which a single file is read ("" for folders and hub names)."""

    def arguments(self) -> dict[str, str | bool | None]:
        """Keyword arguments of every ``from_pretrained``."""
        return {"subfolder": self.subfolder, "local_files_only": self.is_local or self.offline}

    def weights_arguments(self) -> dict[str, str | bool | None]:
        return {**self.arguments(), "use_safetensors": True, "variant": self.variant}


def locate(path: str, controlnet: str, vae: str, tokenizer: str = "") -> dict[str, Source]:
    """Each component's source, after checking every local file of it.

    Raises:
        UserError: a folder is missing, incomplete, or holds corrupt or only pickled weights.
    """
    base = path or str(PACKAGED)
    if single_file.is_single_file(base):
        sources = _of_single_file(Path(base).expanduser(), tokenizer, bool(vae))
    else:
        sources = {name: _source(base, name, "prior.path") for name in CONFIGS}
        if tokenizer:
            folder = single_file.find_tokenizer(Path(base), tokenizer)
            sources["tokenizer"] = Source(str(folder), "", is_local=True)
        if sources["unet"].is_local:
            _check_prior_folder(Path(sources["unet"].name))
    if controlnet:
        sources["controlnet"] = _replaced(controlnet, "controlnet")
    else:
        sources["controlnet"] = _own_controlnet(base, sources["unet"])
    if vae:
        sources["vae"] = _replaced(vae, "vae")
    return {name: _checked(name, source) for name, source in sources.items()}


def locate_tiny(name: str) -> Source:
    """The place of a tiny autoencoder, after checking its local files.

    Raises:
        UserError: as ``locate``.
    """
    return _checked("vae", _source(name, "", "prior.tiny_encoder"))


def _of_single_file(file: Path, tokenizer: str, has_vae: bool) -> dict[str, Source]:
    _check_safetensors(file)
    layout = single_file.base_layout(file, has_vae)
    weights = Source(str(file), "", is_local=True, layout=layout)
    folder = single_file.find_tokenizer(file, tokenizer)
    return {
        "tokenizer": Source(str(folder), "", is_local=True, layout=layout),
        "scheduler": Source(str(single_file.LAYOUTS / layout), "scheduler", is_local=True),
        **dict.fromkeys(("text_encoder", "vae", "unet"), weights),
    }


def _replaced(name: str, component: str) -> Source:
    """The place of a component that is given apart: a file, folder or hub name."""
    if not single_file.is_single_file(name):
        return _source(name, "", f"prior.{component}")
    file = Path(name).expanduser()
    _check_safetensors(file)
    layout = single_file.controlnet_layout(file) if component == "controlnet" else single_file.check_vae(file)
    return Source(str(file), "", is_local=True, layout=layout)


def _own_controlnet(base: str, unet: Source) -> Source:
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
        pickled = any(folder.match(pattern) for pattern in PICKLES)
        reason = "is a pickle and never loaded" if pickled else "is a file of no known kind"
        raise UserError(
            f"{override}={name} {reason}: expected a .safetensors file, a folder in Stable Diffusion's format, or a "
            "hub name"
        )
    if HUB_NAME.fullmatch(name) and not name.startswith("."):
        return Source(name, subfolder, is_local=False, offline=_must_stay_offline(name, subfolder, override))
    raise UserError(
        f"{override}={name}: no such folder or file; expected a folder in Stable Diffusion's format, a .safetensors "
        "file, a hub name (owner/name), or a preset (prior=mini, sd15, sd21)"
    )


def _must_stay_offline(name: str, subfolder: str, override: str) -> bool:
    """Asks the hub once, for seconds: its own client would retry every file for minutes without a network.

    Raises:
        UserError: the hub cannot be reached, and the cache does not hold this name.
    """
    if _hub_answers():
        return False
    file = CONFIGS.get(subfolder, "config.json")
    if isinstance(try_to_load_from_cache(name, f"{subfolder}/{file}" if subfolder else file), str):
        return True
    raise UserError(
        f"{override}={name}: no such folder, and the hub ({constants.ENDPOINT}) cannot be reached to look there; "
        "give a folder in Stable Diffusion's format or prior=mini, or fetch it (stage=fetch) where there is a network"
    )


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=SECONDS_FOR_THE_HUB).close()
    except urllib.error.HTTPError:  # an answer all the same
        return True
    except OSError:
        return False
    return True


def _check_prior_folder(folder: Path) -> None:
    missing = [f"{name}/{file}" for name, file in CONFIGS.items() if not (folder / name / file).is_file()]
    if missing:
        raise UserError(
            f"prior.path={folder} is not a Stable Diffusion folder: missing {', '.join(missing)}; expected the layout "
            "that diffusers' save_pretrained writes"
        )


def _checked(name: str, source: Source) -> Source:
    """The source, with the variant that its files have; hub names are checked by the hub."""
    if name not in WITH_WEIGHTS or source.layout:
        return source
    if not source.is_local:
        return replace(source, variant=_cached_variant(source.name, source.subfolder, weights_stem(name)))
    folder = Path(source.name) / source.subfolder
    if not (folder / "config.json").is_file():
        raise UserError(f"prior: {folder} is no {name} folder: missing config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"prior: {folder / 'config.json'} is not valid JSON ({error}): get the file anew") from error
    stem = weights_stem(name)
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    if not files:
        pickled = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        found = f"found only {', '.join(pickled)}, which is a pickle and never loaded" if pickled else "found none"
        raise UserError(
            f"prior: no {stem}.safetensors in {folder}: {found}; expected safetensors (convert with diffusers' "
            "save_pretrained, or get the safetensors version)"
        )
    for file in files:
        _check_safetensors(file)
    plain = [file for file in files if file.name == f"{stem}.safetensors" or "-of-" in file.name]
    variant = None if plain else files[0].name.removeprefix(f"{stem}.").removesuffix(".safetensors")
    return Source(source.name, source.subfolder, source.is_local, variant)


def weights_stem(component: str) -> str:
    """What the weights of a component are called, before ``.safetensors``."""
    return "model" if component == "text_encoder" else "diffusion_pytorch_model"


def _cached_variant(name: str, subfolder: str, stem: str) -> str | None:
    """``fp16`` where the cache holds a model's half-precision files only, as of a model that has no others."""
    prefix = f"{subfolder}/" if subfolder else ""
    plain = (f"{stem}.safetensors", f"{stem}.safetensors.index.json")
    if any(isinstance(try_to_load_from_cache(name, prefix + file), str) for file in plain):
        return None
    half = try_to_load_from_cache(name, f"{prefix}{stem}.fp16.safetensors")
    return "fp16" if isinstance(half, str) else None


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, "pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"prior: {file} cannot be read as safetensors ({error}): the file is damaged or cut short; get it anew"
        ) from error
