"""Protocols of a diffusion prior, as guidance and identity use it (they do not know diffusers)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """A latent-diffusion prior with pose control, as guidance and identity know it (never diffusers)."""

    name: str
    image_size: int
    """Side of the square pictures it was trained on, in pixels."""
    latent_size: int
    latent_channels: int
    token_length: int
    """L of the ``[B, L, d]`` conditions (77 for Stable Diffusion)."""
    num_timesteps: int
    device: torch.device
    calls: int
    """Number of noise predictions made so far, counted per picture of the batch."""

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B L d"]: ...

    def encode_images(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents (the posterior's mean) of pictures in [0, 1]; differentiable."""
        ...

    def decode_latents(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B H W 3"]: ...

    def alpha(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sqrt(alphas_cumprod[t])."""
        ...

    def sigma(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sqrt(1 - alphas_cumprod[t])."""
        ...

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """The noise prediction, whatever the network itself predicts. ``control`` is the pose map in [0, 1]."""
        ...


@runtime_checkable
class StagedPrior(Prior, Protocol):
    """A prior that may encode an early part of a run in a cheaper way."""

    def encoder_at(self, progress: float) -> Callable[[Tensor], Tensor]:
        """As ``encode_images``, by the fraction of the steps that lie before this one."""
        ...


@dataclass(frozen=True)
class Describable:
    """Alternatives for what a photo of somebody shows: who it is, and by part how they look and what they wear. ""
    among a part's alternatives: there may be none, and then nothing is said of it."""

    person: tuple[str, ...]
    looks: Mapping[str, tuple[str, ...]]
    clothes: Mapping[str, tuple[str, ...]]


@runtime_checkable
class IdentityPrior(Prior, Protocol):
    """A prior that can be told of one person: in its prompts ``<id>`` stands for n rows of token embeddings."""

    text_width: int
    """d of the token embeddings, which an identity must have."""
    prediction_type: str
    """What the network predicts, and was trained on: ``epsilon`` or ``v_prediction``."""
    known_names: tuple[str, ...]
    """Well-known people of this prior's world."""
    describable: Describable
    """What this prior has words for."""
    identity: Float[Tensor, "n d"] | None
    """What ``<id>`` means where nothing else is said."""
    accessories: str
    """What that person wears in photos beside what everybody does: a prompt without clothes should name it."""

    def token_embeddings(self, text: str) -> Float[Tensor, "n d"]:
        """The input embeddings of the tokens of ``text``."""
        ...

    def encode_prompts(
        self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "B L d"]:
        """As in ``Prior``; differentiable in ``identity``. UserError for a prompt with ``<id>`` and no identity."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """A trainable twin of a prior, told the camera; the prior itself stays as it is."""

    parameters: dict[str, Tensor]
    """All that it learns, by name, in float32; its predictions carry their gradients."""

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
        camera: Float[Tensor, "B 16"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """As ``Prior.eps``, and counted there. ``camera`` is ``T_camera_world``, flat; None or zeros: unsaid."""
        ...


@runtime_checkable
class AdaptablePrior(Prior, Protocol):
    """A prior that can be fine-tuned on the side."""

    def adapter(self, rank: int) -> Adapter:
        """A new twin that predicts as the prior does, until it learns."""
        ...
