"""Load the components of a prior, with one-line errors for what cannot be loaded."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.prior.config import Prediction
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import PACKAGED, Source, locate_tiny
from avatar_gs.prior.schedule import noise_schedule

LOGGER = logging.getLogger(__name__)

TINY_ENCODER = "tiny encoder"
TEXT_MODEL_TYPES = ("clip_text_model", "clip")
PROBLEMS = {"missing_keys": "lack", "mismatched_keys": "have another shape of", "unexpected_keys": "have an unexpected"}
"""Keys of the loading reports of diffusers and transformers, in words."""
HARMLESS = re.compile(r"position_ids$|^logit_scale$|^text_projection\.|^visual_projection\.|^vision_model\.")
"""Weights in files of text encoders that conditions do not depend on."""


def load_tiny_encoder(name: str) -> AutoencoderTiny:
    """The tiny autoencoder in a folder or of a hub name.

    Raises:
        UserError: if it is not there, damaged, or another network.
    """
    return load_component(AutoencoderTiny, locate_tiny(name), TINY_ENCODER, torch.float32)


def load_component(cls: Any, source: Source, name: str, dtype: torch.dtype | None = None) -> Any:
    """Load one component.

    Args:
        cls: its class in diffusers or transformers.
        source: its place.
        name: for messages; schedulers and text encoders are loaded in their own ways.
        dtype: number format of networks; None for components without weights.

    Raises:
        UserError: if it cannot be read, is of another class, or has missing, additional, NaN or infinite weights.
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
            network = _load_network(cls, source, name, place, dtype)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises it bare
        reason = first_line(error)
        raise UserError(f"prior: cannot load the {name} from {place} ({_hint(source, error)}): {reason}") from error
    check_finite(network, f"prior: {place}: the {name}")
    return network


def _hint(source: Source, error: Exception) -> str:
    """The probable reason of a failure, and what to do."""
    if source.offline:
        return "the cache holds a part of it only, and the hub cannot be reached: stage=fetch completes it"
    if any(isinstance(cause, GatedRepoError) for cause in _causes(error)):
        return (
            f"this model is gated: accept its terms on {constants.ENDPOINT}/{source.name}, then `hf auth login` or "
            "set HF_TOKEN"
        )
    if not source.is_local:
        return "check the name and the network, or give a folder; stage=fetch resumes an interrupted download"
    return "the files do not fit together, or are damaged"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its chain of causes: libraries hide the hub's own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _load_network(cls: Any, source: Source, name: str, place: str, dtype: torch.dtype) -> Any:
    """A network by ``from_pretrained``, which initialises missing weights randomly with only a warning.

    Raises:
        UserError: if it is of another class, or weights are missing, additional or of another shape.
    """
    is_text = name.startswith("text_encoder")
    if is_text:
        config, _ = cls.config_class.get_config_dict(source.name, **source.arguments())
        _check_class(config.get("model_type", TEXT_MODEL_TYPES[0]), TEXT_MODEL_TYPES, name, place)
    else:
        found = cls.load_config(source.name, **source.arguments()).get("_class_name")
        if name == TINY_ENCODER:
            _check_is_tiny(found, source)
        _check_class(found, (cls.__name__, None), name, place)
    more = {"ignore_mismatched_sizes": True} if is_text else {}  # so that they are reported
    network, report = cls.from_pretrained(
        source.name, **source.weights_arguments(), dtype=dtype, output_loading_info=True, **more
    )
    for problem, words in PROBLEMS.items():
        keys = [key if isinstance(key, str) else key[0] for key in report.get(problem) or ()]
        keys = sorted(key for key in keys if not (problem == "unexpected_keys" and HARMLESS.search(key)))
        if keys:
            others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(
                f"prior: {place}: the weights of the {name} {words} {keys[0]}{others}: the file is incomplete or "
                "belongs to another configuration; get the model again"
            )
    return network


def _check_class(found: str | None, expected: tuple[str | None, ...], name: str, place: str) -> None:
    if found not in expected:
        raise UserError(f"prior: {place} holds a {found}, expected the {name} of a Stable Diffusion 1.x or 2.x")


def _check_is_tiny(found: str | None, source: Source) -> None:
    if found != AutoencoderTiny.__name__:
        raise UserError(
            f"prior.tiny_encoder={source.name}: this is {found or 'another network'}: expected an AutoencoderTiny, "
            "such as madebyollin/taesd" + (" (a whole VAE goes to prior.vae)" if found == "AutoencoderKL" else "")
        )


def check_finite(network: torch.nn.Module, what: str) -> None:
    """Raise UserError for the first tensor with NaN or infinite weights; ``what`` is the start of the message."""
    for name, value in network.state_dict().items():
        # The sum needs no mask of the tensor's size; a sum of finite numbers may overflow, hence the second test.
        if value.is_floating_point() and not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise UserError(
                f"{what} has {count} weights that are NaN or infinite as {str(value.dtype).removeprefix('torch.')}, in "
                f"{name}: the file is damaged, or too large for this precision (prior.precision=…); get another"
            )


def set_prediction(parts: dict[str, Any], setting: Prediction, source: Source, device: torch.device | str) -> None:
    """Replace ``parts["scheduler"]`` by one with the UNet's prediction type, and set the UNet's image size.

    The type is the setting's, else the folder's, else the single file's; where there is no setting the UNet is probed
    as well (one prediction on ``device``).

    Raises:
        UserError: if a folder's scheduler states velocities, and its UNet predicts noise.
    """
    prediction = None if setting is Prediction.auto else setting.value
    if prediction is None and source.layout:
        prediction = single_file.stated_prediction(Path(source.name), source.layout)
        if prediction is None:
            prediction = single_file.probe_prediction(parts["unet"].to(device))
            LOGGER.info("%s: its UNet predicts %s (prior.prediction=… overrides)", source.name, prediction)
    elif prediction is None and Path(source.name) not in PACKAGED.values():
        _check_prediction(parts["unet"].to(device), parts["scheduler"].config, source.name)
    if prediction is not None:
        parts["scheduler"] = noise_schedule(parts["scheduler"].config, prediction_type=prediction)
    if size := single_file.latent_size(source.layout, prediction):
        if not source.latent_size:
            LOGGER.warning("%s: its images are of 768², which take 2.25 times the memory and time of 512²", source.name)
        parts["unet"].register_to_config(sample_size=size)


def _check_prediction(unet: Any, schedule: Any, place: str) -> None:
    """Compare the prediction type that a folder's scheduler states with a probe of its UNet.

    An output like the noise proves that noise is predicted. The contrary only warrants a warning, because a hardly
    trained UNet of noise gives other outputs too.

    Raises:
        UserError: for a UNet of noise with stated velocities.
    """
    stated = schedule.prediction_type
    found = single_file.probe_prediction(unet, schedule.num_train_timesteps - 1)
    if found == stated or stated not in Prediction.__members__:
        return
    if found == Prediction.epsilon.value:
        raise UserError(
            f"prior: {place}: its scheduler says prediction_type={stated}, but the UNet predicts the noise: "
            f"prior.prediction=epsilon takes it as such (prior.prediction={stated} insists)"
        )
    LOGGER.warning(
        "prior: %s: its scheduler says prediction_type=%s, but the UNet does not predict the noise: if samples "
        "(stage=preview) look wrong, try prior.prediction=%s (prior.prediction=%s confirms the scheduler)",
        place,
        stated,
        found,
        stated,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context, diffusers and transformers load without progress bars, advice and warnings."""
    libraries: tuple[Any, ...] = (diffusers.utils, transformers.utils)
    levels = [library.logging.get_verbosity() for library in libraries]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in libraries:
            library.logging.set_verbosity_error()
            library.logging.disable_progress_bar()
        try:
            yield
        finally:
            for library, level in zip(libraries, levels, strict=True):
                library.logging.set_verbosity(level)
                library.logging.enable_progress_bar()
