"""Reading the components of a prior, and saying in one line what is wrong with one that cannot be read."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny, DDIMScheduler
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from avatar_gs.errors import UserError
from avatar_gs.prior import single_file
from avatar_gs.prior.config import Precision, Prediction, PriorConfig, VaePrecision
from avatar_gs.prior.folder import Source, locate_tiny

log = logging.getLogger(__name__)

DTYPES = {Precision.float32: torch.float32, Precision.float16: torch.float16, Precision.bfloat16: torch.bfloat16}


def choose_dtype(precision: Precision, device: torch.device | str) -> torch.dtype:
    """What UNet and ControlNet compute in on ``device``."""
    if torch.device(device).type == "cpu" and precision is Precision.float16:
        log.warning("prior.precision=float16 is slow and inexact on a CPU: computing in float32")
        return torch.float32
    return DTYPES[precision]


def choose_vae_dtype(config: PriorConfig, device: torch.device | str) -> torch.dtype:
    """What the encoders compute in on ``device``.

    ``auto`` takes float16 where the networks compute in either 16-bit format: bfloat16's 8 bits leave the image's
    gradient at a cosine of .9991 with float32's (SD's VAE with random weights, 256²), float16's 11 bits at .99999.
    """
    on_cpu = torch.device(device).type == "cpu"
    if config.vae_precision is VaePrecision.auto:
        return torch.float32 if on_cpu or config.precision is Precision.float32 else torch.float16
    if on_cpu and config.vae_precision is VaePrecision.float16:
        log.warning("prior.vae_precision=float16 is slow on a CPU: computing in float32")
        return torch.float32
    return DTYPES[Precision[config.vae_precision.name]]


def load_tiny_encoder(name: str) -> AutoencoderTiny:
    """The tiny autoencoder in a folder, or of a hub name.

    Raises:
        UserError: it is not there, damaged, or another network.
    """
    source = locate_tiny(name)
    config = load_component(_TinyConfig, source, "tiny encoder")
    kind = config.get("_class_name", "another network")
    if kind != AutoencoderTiny.__name__:
        raise UserError(
            f"prior.tiny_encoder={name}: this is {kind}: expected an AutoencoderTiny, such as madebyollin/taesd"
            + (" (a whole VAE goes to prior.vae)" if kind == "AutoencoderKL" else "")
        )
    return load_component(AutoencoderTiny, source, "tiny encoder", torch.float32)


class _TinyConfig:
    """``config.json`` alone, read where ``from_pretrained`` would."""

    @staticmethod
    def from_pretrained(name: str, **arguments: Any) -> Any:
        return AutoencoderTiny.load_config(name, **arguments)


def load_component(cls: Any, source: Source, name: str, dtype: torch.dtype | None = None) -> Any:
    """One component; ``dtype`` for those that have weights."""
    try:
        if dtype is None:
            more = single_file.tokenizer_arguments(source.layout) if source.layout else {}
            return cls.from_pretrained(source.name, **source.arguments(), **more)
        if source.layout:
            return single_file.load(cls, Path(source.name), name, source.layout, dtype)
        as_dtype = {"dtype" if name == "text_encoder" else "torch_dtype": dtype}
        return cls.from_pretrained(source.name, **source.weights_arguments(), **as_dtype)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        place = f"{source.name}/{source.subfolder}" if source.subfolder else source.name
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "the files do not fit together"
        if source.offline:
            hint = "the cache holds a part of it only, and the hub cannot be reached: stage=fetch completes it"
        elif any(isinstance(cause, GatedRepoError) for cause in _causes(error)):
            hint = (
                f"this model is gated: accept its terms on {constants.ENDPOINT}/{source.name}, then `hf auth login` or "
                "set HF_TOKEN"
            )
        elif not source.is_local:
            hint = "check the name and the network, or give a folder; stage=fetch goes on with a cut-off download"
        raise UserError(f"prior: cannot load the {name} from {place} ({hint}): {reason}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from or while handling, and so on: libraries hide the hub's own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def set_prediction(parts: dict[str, Any], wanted: Prediction, source: Source, device: torch.device | str) -> None:
    """Makes the scheduler say what the UNet predicts: what the user says, or what a single file gives away (the
    scheduler of a folder knows it)."""
    kind = None if wanted is Prediction.auto else wanted.value
    if kind is None and source.layout:
        kind = single_file.said_prediction(Path(source.name), source.layout)
        if kind is None:
            kind = single_file.recognise_prediction(parts["unet"].to(device))
            log.info("%s: its UNet predicts %s (prior.prediction=… says otherwise)", source.name, kind)
    if kind is not None:
        parts["scheduler"] = DDIMScheduler.from_config(parts["scheduler"].config, prediction_type=kind)
    if source.layout == "sd21" and kind == Prediction.v_prediction.value:
        parts["unet"].register_to_config(sample_size=single_file.V_LATENT_SIZE)


class Quiet:
    """Libraries load without progress bars and advice; their settings come back afterwards."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._levels = [(lib, lib.logging.get_verbosity()) for lib in (diffusers.utils, transformers.utils)]
        for library, _ in self._levels:
            library.logging.set_verbosity_error()
            library.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        for library, level in self._levels:
            library.logging.set_verbosity(level)
            library.logging.enable_progress_bar()
        self._warnings.__exit__(None, None, None)
