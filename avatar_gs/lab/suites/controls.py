"""Priors that must fail: with random weights, or with two words exchanged."""

import copy
import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from avatar_gs.core.errors import UserError
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior


def networks(prior: StableDiffusionPrior) -> dict[str, nn.Module]:
    """All that a prior has learned."""
    return {
        "text_encoder": prior.text_encoder,
        "vae": prior.vae,
        "unet": prior.unet,
        "controlnet": prior.controlnet,
    }


def fingerprint(prior: StableDiffusionPrior) -> str:
    """Eight hexadecimal digits that change with the prior's weights, so that no result outlives the prior it is of."""
    return weights_fingerprint(networks(prior))


def weights_fingerprint(parts: Mapping[str, nn.Module]) -> str:
    """Eight hexadecimal digits that change with the weights of networks."""
    digest = hashlib.sha256()
    for name, value in _parameters(parts):
        moments = torch.stack([value.double().sum(), value.double().square().sum()])
        digest.update(name.encode() + moments.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def _parameters(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    for part, network in parts.items():
        for name, value in network.named_parameters():
            yield f"{part}.{name}", value.detach()


def with_random_weights(prior: StableDiffusionPrior, seed: int) -> StableDiffusionPrior:
    """A prior of the same architecture that has learned nothing: every layer as torch initialises it."""
    other = copy.deepcopy(prior)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for network in networks(other).values():
            for module in network.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
    return other


def with_words_exchanged(prior: StableDiffusionPrior, first: str, second: str) -> StableDiffusionPrior:
    """The same prior (networks shared, but for the text encoder) with two rows of its token embedding exchanged.

    Raises:
        UserError: if one of the words is not a single token to the prior.
    """
    other = copy.copy(prior)
    other.text_encoder = copy.deepcopy(prior.text_encoder)
    rows = [_token(prior, first), _token(prior, second)]
    weight = other.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[rows] = weight[rows[::-1]].clone()
    return other


def _token(prior: StableDiffusionPrior, word: str) -> int:
    ids = prior.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise UserError(
            f"evaluate.red_blue: “{word}” is {len(ids)} tokens to prior={prior.name}, not one to exchange; "
            "give evaluate.red_blue=0"
        )
    return int(ids[0])
