"""Reading the components of a prior, and saying in one line what is wrong with one that cannot be read."""

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import EncoderKeeps, Precision, Prediction, PriorConfig, VaePrecision
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import PACKAGED, Source, locate_tiny
from avatar_gs.prior.schedule import noise_schedule

log = logging.getLogger(__name__)

MODEL_TYPES = ("clip_text_model", "clip")
REPORTED = {"missing_keys": "lack", "mismatched_keys": "have another shape of", "unexpected_keys": "have too much:"}
"""What diffusers and transformers report of a loaded component, in words."""
HARMLESS = re.compile(r"position_ids$|^logit_scale$|^text_projection\.|^visual_projection\.|^vision_model\.")
"""Weights that are in text encoders' files and that no prompt is read with."""
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


def choose_encoder_keeps(keeps: EncoderKeeps, device: torch.device | str) -> EncoderKeeps:
    """What the VAE's encoder keeps for its backward pass on ``device``: ``auto`` is chosen here."""
    if keeps is not EncoderKeeps.auto:
        return keeps
    return EncoderKeeps.least if torch.device(device).type == "cpu" else EncoderKeeps.convolutions


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
    """One component; ``dtype`` for those that have weights.

    Raises:
        UserError: it cannot be read, is of another class, lacks weights or has others, or holds NaN or infinite ones.
    """
    place = f"{source.name}/{source.subfolder}" if source.subfolder else source.name
    try:
        if name == "scheduler":
            return noise_schedule(cls.load_config(source.name, **source.arguments()), place)
        if dtype is None:
            more = single_file.tokenizer_arguments(source.layout) if source.layout else {}
            return cls.from_pretrained(source.name, **source.arguments(), **more)
        if source.layout:
            network = single_file.load(cls, Path(source.name), name, source.layout, dtype)
        else:
            network = _load_whole(cls, source, name, place, dtype)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises it bare
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "the files do not fit together, or are damaged"
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
    check_finite(network, f"prior: {place}: the {name}")
    return network


def _load_whole(cls: Any, source: Source, name: str, place: str, dtype: torch.dtype) -> Any:
    """A component by ``from_pretrained``, which draws at random what the files lack, and only warns of it.

    Raises:
        UserError: it is of another class; weights are missing, too many or of another shape.
    """
    config, _ = (
        cls.config_class.get_config_dict(source.name, **source.arguments())
        if name == "text_encoder"
        else (cls.load_config(source.name, **source.arguments()), None)
    )
    said = config.get("model_type", MODEL_TYPES[0]) if name == "text_encoder" else config.get("_class_name")
    expected = MODEL_TYPES if name == "text_encoder" else (cls.__name__, None)
    if said not in expected:
        raise UserError(f"prior: {place} holds a {said}, expected the {name} of a Stable Diffusion 1.x or 2.x")
    more = {"ignore_mismatched_sizes": True} if name == "text_encoder" else {}  # so that they are listed
    network, report = cls.from_pretrained(
        source.name, **source.weights_arguments(), dtype=dtype, output_loading_info=True, **more
    )
    for kind, says in REPORTED.items():
        keys = [key if isinstance(key, str) else key[0] for key in report.get(kind) or ()]
        keys = sorted(key for key in keys if not (kind == "unexpected_keys" and HARMLESS.search(key)))
        if keys:
            others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(
                f"prior: {place}: the weights of the {name} {says} {keys[0]}{others}: the file is incomplete or "
                "belongs to another configuration; get the model again"
            )
    return network


def check_finite(network: torch.nn.Module, what: str) -> None:
    """Raises UserError if a weight is NaN or infinite; ``what`` is the beginning of its message."""
    for name, value in network.state_dict().items():
        # A sum shows them without a mask of the tensor's size; that of finite numbers may overflow, so look again.
        if value.is_floating_point() and not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise UserError(
                f"{what} has {count} weights that are NaN or infinite as {str(value.dtype).removeprefix('torch.')}, in "
                f"{name}: the file is damaged, or too large for this precision (prior.precision=…); get another"
            )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from or while handling, and so on: libraries hide the hub's own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def set_prediction(parts: dict[str, Any], wanted: Prediction, source: Source, device: torch.device | str) -> None:
    """Makes the scheduler say what the UNet predicts: what the user says, what a folder's scheduler says, or what a
    single file gives away. Where the user says nothing, the UNet is asked as well (one prediction).

    Raises:
        UserError: a folder says velocities, and its UNet predicts noise.
    """
    kind = None if wanted is Prediction.auto else wanted.value
    if kind is None and source.layout:
        kind = single_file.said_prediction(Path(source.name), source.layout)
        if kind is None:
            kind = single_file.recognise_prediction(parts["unet"].to(device))
            log.info("%s: its UNet predicts %s (prior.prediction=… says otherwise)", source.name, kind)
    elif kind is None and source.name != str(PACKAGED):
        _check_prediction(parts["unet"].to(device), parts["scheduler"].config, source.name)
    if kind is not None:
        parts["scheduler"] = noise_schedule(parts["scheduler"].config, prediction_type=kind)
    if size := single_file.latent_size(source.layout, kind):
        if not source.latent_size:
            log.warning("%s: its pictures are of 768², which take 2.25 times the memory and time of 512²", source.name)
        parts["unet"].register_to_config(sample_size=size)


def _check_prediction(unet: Any, schedule: Any, place: str) -> None:
    """Compares what a folder's scheduler says that the UNet predicts with what it does.

    An answer like the noise proves that noise is predicted. One that is unlike it does not prove the contrary, because
    a UNet that was hardly trained gives such answers too: so that is only warned of.

    Raises:
        UserError: for a UNet of noise that is said to be one of velocities.
    """
    found, said = single_file.recognise_prediction(unet, schedule.num_train_timesteps - 1), schedule.prediction_type
    if found == said or said not in Prediction.__members__:
        return
    if found == Prediction.epsilon.value:
        raise UserError(
            f"prior: {place}: its scheduler says prediction_type={said}, but the UNet predicts the noise: "
            f"prior.prediction=epsilon takes it as such (prior.prediction={said} insists)"
        )
    log.warning(
        "prior: %s: its scheduler says prediction_type=%s, but the UNet does not predict the noise: if samples "
        "(stage=preview) look wrong, try prior.prediction=%s (prior.prediction=%s says that all is right)",
        place,
        said,
        found,
        said,
    )


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
