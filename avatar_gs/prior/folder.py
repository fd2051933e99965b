"""Where the files of a prior are, and whether they are all there, before any library opens them.

The libraries' own messages about a missing or broken file run over pages and seldom name it; these are one line.
"""

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from avatar_gs.errors import UserError

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

    def arguments(self) -> dict[str, str | bool | None]:
        """Keyword arguments of every ``from_pretrained``."""
        return {"subfolder": self.subfolder, "local_files_only": self.is_local or self.offline}

    def weights_arguments(self) -> dict[str, str | bool | None]:
        return {**self.arguments(), "use_safetensors": True, "variant": self.variant}


def locate(path: str, controlnet: str, vae: str) -> dict[str, Source]:
    """Each component's source, after checking every local file of it.

    Raises:
        UserError: a folder is missing, incomplete, or holds corrupt or only pickled weights.
    """
    base = path or str(PACKAGED)
    sources = {name: _source(base, name, "prior.path") for name in CONFIGS}
    if sources["unet"].is_local:
        _check_prior_folder(Path(sources["unet"].name))
    if controlnet:
        sources["controlnet"] = _source(controlnet, "", "prior.controlnet")
    else:
        sources["controlnet"] = _source(base, "controlnet", "prior.path")
        if sources["controlnet"].is_local and not (Path(sources["controlnet"].name) / "controlnet").is_dir():
            raise UserError(
                f"prior.path={base}: this prior has no ControlNet (no folder 'controlnet' in it), and without one "
                "nothing holds the pose: give one with prior.controlnet=<folder or hub name>"
            )
    if vae:
        sources["vae"] = _source(vae, "", "prior.vae")
    return {name: _checked(name, source) for name, source in sources.items()}


def _source(name: str, subfolder: str, override: str) -> Source:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(str(folder), subfolder, is_local=True)
    if folder.is_file():
        if folder.suffix == ".safetensors":
            raise UserError(
                f"{override}={name}: single-file checkpoints are not read; convert it to a folder once with diffusers: "
                "StableDiffusionPipeline.from_single_file(<file>).save_pretrained(<folder>)"
            )
        raise UserError(f"{override}={name} is a file: expected a folder in Stable Diffusion's format, or a hub name")
    if HUB_NAME.fullmatch(name) and not name.startswith("."):
        return Source(name, subfolder, is_local=False, offline=_must_stay_offline(name, subfolder, override))
    raise UserError(
        f"{override}={name}: no such folder; expected a folder in Stable Diffusion's format, a hub name (owner/name), "
        "or a preset (prior=mini, sd15, sd21)"
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
        "give a folder in Stable Diffusion's format, prior=mini, or check the network"
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
    if name not in WITH_WEIGHTS or not source.is_local:
        return source
    folder = Path(source.name) / source.subfolder
    if not (folder / "config.json").is_file():
        raise UserError(f"prior: {folder} is no {name} folder: missing config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"prior: {folder / 'config.json'} is not valid JSON ({error}): get the file anew") from error
    stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
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


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, "pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"prior: {file} cannot be read as safetensors ({error}): the file is damaged or cut short; get it anew"
        ) from error
