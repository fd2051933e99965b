"""Short digests of network weights, which keep a cached result from outliving the networks that it was made with."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.prior.two_text_encoders import TwoTextEncoders


def networks(prior: StableDiffusionPrior) -> dict[str, nn.Module]:
    """The prior's networks by name."""
    found = {
        "text_encoder": prior.text_encoder,
        "vae": prior.vae,
        "unet": prior.unet,
        "controlnet": prior.controlnet,
    }
    if isinstance(prior.prompt_encoder, TwoTextEncoders):
        found["text_encoder_2"] = prior.prompt_encoder.second.text_encoder
    return found


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
