"""Where the files of a prior are, and whether they are all there, before any library opens them.

The libraries' own messages about a missing or broken file run over pages and seldom name it; these are one line.
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
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.prior.config import Prediction
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.weight_files import as_safetensors, check_no_pointer, check_safetensors, unfinished

PACKAGED = MINI_PRIOR
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CONFIGS = {
    "tokenizer": "tokenizer_config.json",
    "text_encoder": "config.json",
    "vae": "config.json",
    "unet": "config.json",
    "scheduler": "scheduler_config.json",
}
SECONDS_FOR_THE_HUB = 8
PICKLED = ".bin"
HALF = "fp16"
"""The variant that is taken of a model that has no others."""
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
    latent_size: int = 0
    """The side of the latents, where the layout says another (0: it does not)."""

    def arguments(self) -> dict[str, str | bool | None]:
        """Keyword arguments of every ``from_pretrained``."""
        return {"subfolder": self.subfolder, "local_files_only": self.is_local or self.offline}

    def weights_arguments(self) -> dict[str, str | bool | None]:
        return {**self.arguments(), "use_safetensors": True, "variant": self.variant}


def locate(
    path: str, controlnet: str, vae: str, tokenizer: str = "", prediction: Prediction = Prediction.auto
) -> dict[str, Source]:
    """Each component's source, after checking every local file of it. ``prediction`` (as the user says it) tells the
    size of a single file's pictures.

    Raises:
        UserError: a folder is missing or incomplete, or holds damaged weights or pickles of more than tensors.
    """
    base = path or str(PACKAGED)
    if single_file.is_single_file(base):
        sources = _of_single_file(Path(base).expanduser(), tokenizer, bool(vae), prediction)
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
    return {name: checked(name, source) for name, source in sources.items()}


def locate_tiny(name: str) -> Source:
    """The place of a tiny autoencoder, after checking its local files.

    Raises:
        UserError: as ``locate``.
    """
    return checked("vae", _source(name, "", "prior.tiny_encoder"))


def _of_single_file(file: Path, tokenizer: str, has_vae: bool, prediction: Prediction) -> dict[str, Source]:
    readable = single_file.readable(file)
    layout = single_file.base_layout(readable, has_vae, given=file)
    weights = Source(str(readable), "", is_local=True, layout=layout)
    auto = prediction is Prediction.auto
    said = single_file.said_prediction(readable, layout) if auto else prediction.value
    folder = single_file.find_tokenizer(file, tokenizer)
    return {
        "tokenizer": Source(str(folder), "", is_local=True, layout=layout),
        "scheduler": Source(str(single_file.LAYOUTS / layout), "scheduler", is_local=True),
        **dict.fromkeys(("text_encoder", "vae"), weights),
        "unet": replace(weights, latent_size=single_file.latent_size(layout, said)),
    }


def _replaced(name: str, component: str) -> Source:
    """The place of a component that is given apart: a file, folder or hub name."""
    if not single_file.is_single_file(name):
        return _source(name, "", f"prior.{component}")
    file = Path(name).expanduser()
    readable = single_file.readable(file)
    find = single_file.controlnet_layout if component == "controlnet" else single_file.check_vae
    return Source(str(readable), "", is_local=True, layout=find(readable, given=file))


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
        raise UserError(
            f"{override}={name} is a file of no known kind: expected a .safetensors file, a pickled one (.ckpt, .pt, "
            ".pth, .bin: read as plain tensors only), a folder in Stable Diffusion's format, or a hub name"
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
    check_endpoint()
    if _hub_answers():
        return False
    file = CONFIGS.get(subfolder, "config.json")
    if isinstance(try_to_load_from_cache(name, f"{subfolder}/{file}" if subfolder else file), str):
        return True
    raise UserError(
        f"{override}={name}: no such folder, and the hub ({constants.ENDPOINT}) cannot be reached to look there; "
        "give a folder in Stable Diffusion's format or prior=mini, or fetch it (stage=fetch) where there is a network"
    )


def check_endpoint() -> None:
    """Raises UserError for an HF_ENDPOINT that is no address."""
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


def checked(name: str, source: Source) -> Source:
    """The source, with the variant that its files have; hub names are checked by the hub. Weights that are pickled
    only are read from a copy in safetensors."""
    if source.is_local and (not source.layout or name == "tokenizer"):
        for file in (Path(source.name) / source.subfolder).iterdir():
            if file.is_file():
                check_no_pointer(file)
    if name not in WITH_WEIGHTS or source.layout:
        return source
    folder = files_of(name, source)
    if folder is None:
        return source
    if not (folder / "config.json").is_file():
        raise UserError(f"prior: {folder} is no {name} folder: missing config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"prior: {folder / 'config.json'} is not valid JSON ({error}): get the file again") from error
    names, stem = [file.name for file in folder.iterdir() if file.is_file()], weights_stem(name)
    variant, chosen = choose_weights(names, stem, ".safetensors")
    if chosen:
        for file in chosen if source.is_local else ():
            check_safetensors(folder / file)
        _check_all_parts(folder, chosen)
        return replace(source, variant=variant)
    _, pickled = choose_weights(names, pickled_stem(name), PICKLED)
    if pickled:
        _check_all_parts(folder, pickled)
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


def files_of(name: str, source: Source) -> Path | None:
    """The folder on this disk that holds the files of a component; None where the cache of the hub has none of it."""
    if source.is_local:
        return Path(source.name) / source.subfolder
    file = CONFIGS.get(name, "config.json")
    cached = try_to_load_from_cache(source.name, f"{source.subfolder}/{file}" if source.subfolder else file)
    return Path(cached).parent if isinstance(cached, str) else None


def weights_stem(component: str) -> str:
    """What the weights of a component are called, before ``.safetensors``."""
    return "model" if component == "text_encoder" else "diffusion_pytorch_model"


def pickled_stem(component: str) -> str:
    """What the pickled weights of a component are called, before ``.bin``."""
    return "pytorch_model" if component == "text_encoder" else "diffusion_pytorch_model"


def choose_weights(names: Iterable[str], stem: str, suffix: str) -> tuple[str | None, list[str]]:
    """``(variant, files)``: which of the files of a component to load: plain ones, else half-precision ones, else the
    first of others; one whole file rather than parts. No files: there are none."""
    parts = r"(?P<{}>-\d+-of-\d+)?"
    form = re.compile(
        rf"{re.escape(stem)}{parts.format('old')}(\.(?P<variant>\w+))?{parts.format('part')}{re.escape(suffix)}"
    )
    found: dict[str, dict[bool, list[str]]] = {}
    for name in sorted(names):
        if match := form.fullmatch(name):
            is_part = bool(match["old"] or match["part"])
            found.setdefault(match["variant"] or "", {}).setdefault(is_part, []).append(name)
    if not found:
        return None, []
    variant = min(found, key=lambda name: (name != "", name != HALF, name))
    return variant or None, found[variant].get(False) or found[variant][True]


def weight_files(component: str, source: Source) -> list[Path]:
    """The files on this disk that a component is loaded from; none where they are not here yet."""
    if source.layout:
        return [Path(source.name)]
    folder = files_of(component, source)
    if folder is None:
        return []
    names = [file.name for file in folder.iterdir() if file.is_file()]
    _, chosen = choose_weights(names, weights_stem(component), ".safetensors")
    return [folder / name for name in chosen]


def must_be_fetched(component: str, source: Source) -> bool:
    """Whether a component's weights are still on the hub only."""
    unknown = component in WITH_WEIGHTS and not source.is_local and not source.offline
    return unknown and not weight_files(component, source)


def _check_all_parts(folder: Path, files: list[str]) -> None:
    """Raises UserError if a model that is stored in parts lacks some."""
    match = re.search(r"-of-(\d+)", files[0])
    if match and len(files) != int(match[1]):
        raise UserError(
            f"prior: {folder} holds {len(files)} of {int(match[1])} parts of its weights ({files[0]}, …): get the "
            "others"
        )
