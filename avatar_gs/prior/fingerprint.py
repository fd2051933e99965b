"""Short digests of network weights, which keep a cached result from outliving the networks that it was made with."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from avatar_gs.prior.stable_diffusion import StableDiffusionPrior


def networks(prior: StableDiffusionPrior) -> dict[str, nn.Module]:
    """The prior's networks by name."""
    return {
        "text_encoder": prior.text_encoder,
        "vae": prior.vae,
        "unet": prior.unet,
        "controlnet": prior.controlnet,
    }


def prior_fingerprint(prior: StableDiffusionPrior) -> str:
    """``weights_fingerprint`` of all networks of a prior."""
    return weights_fingerprint(networks(prior))


def weights_fingerprint(parts: Mapping[str, nn.Module]) -> str:
    """Digest of the weights of networks: it changes with any parameter's name, sum or sum of squares.

    Returns:
        Eight hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part, network in parts.items():
        for name, parameter in network.named_parameters():
            value = parameter.detach().double()
            moments = torch.stack([value.sum(), value.square().sum()])
            digest.update(f"{part}.{name}".encode() + moments.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]
