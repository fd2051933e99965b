"""Priors that must fail: with random weights, or with two words exchanged."""

import copy

import torch

from avatar_gs.core.errors import UserError
from avatar_gs.prior.fingerprint import networks
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior


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
    text_encoder = copy.deepcopy(prior.text_encoder)
    rows = [_token(prior, first), _token(prior, second)]
    weight = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[rows] = weight[rows[::-1]].clone()
    return prior.with_text_encoder(text_encoder)


def _token(prior: StableDiffusionPrior, word: str) -> int:
    ids = prior.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise UserError(
            f"evaluate.red_blue: “{word}” is {len(ids)} tokens to prior={prior.name}, not one to exchange; "
            "give evaluate.red_blue=0"
        )
    return int(ids[0])
