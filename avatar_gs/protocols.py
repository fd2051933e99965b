"""Interfaces of a diffusion prior, which guidance and identity use instead of diffusers.

Shapes: B images, L tokens of width d, latents of c channels and h x w pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from avatar_gs.core.lazy import Float, Int, Tensor, torch


@runtime_checkable
class Prior(Protocol):
    """A latent-diffusion prior with pose control."""

    name: str
    image_size: int
    """Side in pixels of the square images it was trained on."""
    latent_size: int
    latent_channels: int
    token_length: int
    """L of the text conditions (77 for Stable Diffusion)."""
    num_timesteps: int
    device: "torch.device"

    @property
    def calls(self) -> int:
        """Number of noise predictions so far, counted per image of the batch."""
        ...

    @calls.setter
    def calls(self, count: int) -> None: ...

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B L d"]: ...

    def encode_images(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents (the posterior's mean) of images in [0, 1]; differentiable."""
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
        """Predict the noise, also with a network that predicts v.

        Args:
            z_t: noised latents.
            t: timesteps.
            cond: text conditions of ``encode_prompts``.
            control: pose maps in [0, 1]; None: no pose control.
        """
        ...


@runtime_checkable
class StagedPrior(Prior, Protocol):
    """A prior with a cheaper encoder for an early part of a run."""

    def encoder_at(self, progress: float) -> Callable[[Tensor], Tensor]:
        """The encoder (as ``encode_images``) at ``progress``, the fraction of the run's steps that are done."""
        ...


@dataclass(frozen=True)
class Describable:
    """Words by which a photo's person can be described: alternatives of which one is chosen.

    ``looks`` and ``clothes`` hold the alternatives by part; an empty string among them means that the part may be
    absent and is then not mentioned.
    """

    person: tuple[str, ...]
    looks: Mapping[str, tuple[str, ...]]
    clothes: Mapping[str, tuple[str, ...]]


@runtime_checkable
class IdentityPrior(Prior, Protocol):
    """A prior whose prompts may contain ``<id>``: a person, given by n token embeddings."""

    text_width: int
    """d of the token embeddings."""
    prediction_type: str
    """The network's target: ``epsilon`` or ``v_prediction``."""
    known_names: tuple[str, ...]
    """Names of people that the prior knows."""
    describable: Describable
    """The prior's words for people and clothes."""
    identity: Float[Tensor, "n d"] | None
    """Default meaning of ``<id>``."""
    accessories: str
    """Accessories that the person wears in the photos; a prompt without clothes should name them."""

    def token_embeddings(self, text: str) -> Float[Tensor, "n d"]:
        """Input embeddings of the tokens of ``text``."""
        ...

    def encode_prompts(
        self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "B L d"]:
        """As in ``Prior``; differentiable in ``identity``. Raises UserError for ``<id>`` without an identity."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """A trainable, camera-conditioned copy of a prior; the prior itself does not change."""

    parameters: dict[str, Tensor]
    """Trainable tensors by name, float32; predictions are differentiable in them."""

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
        camera: Float[Tensor, "B 16"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """As ``Prior.eps``, and counted there. ``camera`` is a flat ``T_camera_world``; None or zeros: not given."""
        ...


@runtime_checkable
class AdaptablePrior(Prior, Protocol):
    """A prior with adapters."""

    def adapter(self, rank: int) -> Adapter:
        """A new adapter of LoRA rank ``rank``, which at first predicts as the prior does."""
        ...
