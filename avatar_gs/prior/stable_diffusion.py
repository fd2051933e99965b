"""A Stable Diffusion prior with ControlNet, from any folder or hub name in diffusers' format or from single files.

The rest of the program uses it through ``protocols.Prior``.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from avatar_gs.core.device import all_finite, allow_tf32
from avatar_gs.core.errors import UserError
from avatar_gs.prior import accelerate, prompt_encoder, vocabulary
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import Compile, Encoder, PriorConfig
from avatar_gs.prior.denoiser import Denoiser
from avatar_gs.prior.image_encoder import ImageCodec
from avatar_gs.prior.loading import lora
from avatar_gs.prior.loading.components import load_component, load_tiny_encoder, quiet, set_prediction
from avatar_gs.prior.loading.hub import fetch
from avatar_gs.prior.loading.sources import Source, locate, must_be_fetched
from avatar_gs.prior.parts import Parts, check_vae_scale
from avatar_gs.prior.prompt_encoder import PromptEncoder
from avatar_gs.prior.two_text_encoders import TwoTextEncoders
from avatar_gs.prior.vocabulary import Words
from avatar_gs.protocols import Adapter

LATENT_SIZE = 64
"""Of Stable Diffusion 1.x, whose first configurations lack it."""


class StableDiffusionPrior:
    """Implements ``protocols.IdentityPrior``. All parameters are frozen; gradients flow to inputs only.

    Inputs and outputs are float32 in any precision of the networks: a residual subtracts nearly equal predictions.

    Args:
        parts: the networks, tokenizer and scheduler; they are moved to the device, in place.
        compute: device, number formats and measures that save memory.
        words: what the prior has words for.
        name: for messages.

    Example::

        prior = load_prior(PriorConfig(), "cpu")
        images = prior.sample(["a man in a red shirt, full body, front view"], [""], None)
    """

    def __init__(
        self, parts: Parts, compute: Compute | None = None, words: Words | None = None, name: str = "custom"
    ) -> None:
        compute, words = compute or Compute(), words or Words()
        self.name, self.device = name, compute.device
        self.vocabulary, self.known_names, self.describable = words.vocabulary, words.known_names, words.describable
        self.identity: Float[Tensor, "n d"] | None = None
        self.accessories = ""
        self.scheduler: Any = parts.scheduler
        config: Any = parts.unet.config
        vae_config: Any = parts.vae.config
        self.latent_size, self.latent_channels = int(config.sample_size or LATENT_SIZE), int(config.in_channels)
        self.image_size = self.latent_size * 2 ** (len(vae_config.block_out_channels) - 1)
        self.prompt_encoder: PromptEncoder | TwoTextEncoders = PromptEncoder(
            parts.tokenizer, parts.text_encoder, compute
        )
        if parts.text_encoder_2 is not None and parts.tokenizer_2 is not None:
            tokenizers = parts.tokenizer, parts.tokenizer_2
            self.prompt_encoder = TwoTextEncoders(tokenizers, (parts.text_encoder, parts.text_encoder_2), compute)
        self.codec = ImageCodec(parts.vae, parts.tiny, self.image_size, compute)
        self.denoiser = Denoiser(parts.unet, parts.controlnet, parts.scheduler, compute, self.image_size)
        self.token_length, self.text_width = self.prompt_encoder.token_length, self.prompt_encoder.text_width
        self.num_timesteps, self.prediction_type = len(self.denoiser.alphas), self.denoiser.prediction_type

    # ---- networks

    @property
    def text_encoder(self) -> Any:
        return self.prompt_encoder.text_encoder

    @property
    def tokenizer(self) -> CLIPTokenizer:
        return self.prompt_encoder.tokenizer

    @property
    def vae(self) -> Any:
        return self.codec.vae

    @property
    def unet(self) -> Any:
        return self.denoiser.unet

    @property
    def controlnet(self) -> Any:
        return self.denoiser.controlnet

    @property
    def calls(self) -> int:
        """Noise predictions so far, counted per image."""
        return self.denoiser.calls

    @calls.setter
    def calls(self, count: int) -> None:
        self.denoiser.calls = count

    @property
    def control_scale(self) -> float:
        """Factor on the ControlNet's residuals."""
        return self.denoiser.control_scale

    def with_identity(self, identity: Float[Tensor, "n d"] | None, accessories: str = "") -> "StableDiffusionPrior":
        """This prior with another meaning of ``<id>``; the networks are shared.

        Args:
            identity: token embeddings; None: ``<id>`` is not known.
            accessories: what the person wears in the photos in addition to what everybody does.
        """
        other = copy.copy(self)
        other.identity = None if identity is None else identity.to(self.device)
        other.accessories = accessories
        return other

    def with_embeddings(self, embeddings: Mapping[str, Float[Tensor, "_ d"]]) -> "StableDiffusionPrior":
        """This prior with further words, such as ``<ink>``, that stand for token embeddings; the networks are
        shared."""
        other = copy.copy(self)
        other.prompt_encoder = copy.copy(self.prompt_encoder)
        other.prompt_encoder.embeddings = {word: vectors.to(self.device) for word, vectors in embeddings.items()}
        return other

    def with_control_scale(self, scale: float) -> "StableDiffusionPrior":
        """This prior with another ``control_scale``; the networks are shared, ``calls`` is not."""
        other = copy.copy(self)
        other.denoiser = copy.copy(self.denoiser)
        other.denoiser.control_scale = scale
        other.denoiser.accelerated = None  # compiled with this prior's scale
        return other

    def with_text_encoder(self, text_encoder: Any) -> "StableDiffusionPrior":
        """This prior with another text encoder of the same width; the other networks are shared."""
        other = copy.copy(self)
        encoder = copy.copy(self.prompt_encoder)
        if not isinstance(encoder, PromptEncoder):
            raise ValueError("a prior of one text encoder is needed")
        encoder.text_encoder = text_encoder
        other.prompt_encoder = encoder
        return other

    # ---- text

    def encode_prompts(
        self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "B L d"]:
        """The text encoder's last hidden states, ``L = token_length``; longer prompts are cut (see ``truncate``).

        Stable Diffusion XL's have another row (``two_text_encoders``).

        Args:
            prompts: the texts; ``<id>`` in them takes n tokens.
            identity: embeddings of ``<id>``, by default ``self.identity``; the result is differentiable in them.

        Raises:
            UserError: for a prompt with ``<id>`` without an identity.
        """
        return self.prompt_encoder.encode(prompts, self.identity if identity is None else identity)

    def token_embeddings(self, text: str) -> Float[Tensor, "n d"]:
        """Input embeddings of the tokens of ``text``, without those that mark its start and end."""
        return self.prompt_encoder.token_embeddings(text)

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]:
        """``(kept, cut)``: the part of a prompt that fits into ``token_length`` before ``reserve``, and the rest."""
        tokens = 1 if self.identity is None else len(self.identity)
        others = {word: len(vectors) for word, vectors in self.prompt_encoder.embeddings.items()}
        return prompt_encoder.truncate(self.tokenizer, self.token_length, prompt, reserve, tokens, others)

    def truncated(self, prompt: str) -> str:
        """The end of the prompt that does not fit into the token length ("" if all of it fits)."""
        return self.truncate(prompt)[1]

    def unknown_words(self, prompt: str) -> list[str]:
        """Words outside the vocabulary that the prior was trained on; none if it is not known."""
        return [] if self.vocabulary is None else vocabulary.unknown_words(prompt, self.vocabulary)

    # ---- images

    def encode_images(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents (the posterior's mean) of images in [0, 1]; differentiable. Larger images are averaged down
        to ``image_size`` first."""
        return self.codec.encode(images)

    def encode_tiny(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """``encode_images`` by the tiny encoder."""
        return self.codec.encode_tiny(images)

    def encoder_at(self, progress: float) -> Callable[[Tensor], Tensor]:
        """The encoder of a step's renders, ``encode_images`` or ``encode_tiny``.

        Args:
            progress: fraction of the run's steps that are done.
        """
        return self.encode_tiny if progress < self.codec.tiny_until else self.encode_images

    def decode_latents(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B H W 3"]:
        """Images in [0, 1] of scaled latents."""
        return self.codec.decode(latents)

    # ---- noise

    def alpha(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sqrt(alphas_cumprod[t])."""
        return self.denoiser.alphas[t]

    def sigma(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sqrt(1 - alphas_cumprod[t])."""
        return self.denoiser.sigmas[t]

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """The predicted noise; see ``Denoiser.eps``."""
        return self.denoiser.eps(z_t, t, cond, control)

    def adapter(self, rank: int) -> Adapter:
        """A trainable copy of the UNet that knows the camera; this prior does not change."""
        from avatar_gs.prior.adapter import CameraLora  # peft takes seconds to import, and only VSD needs it

        return CameraLora(self.denoiser, rank)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        control: Float[Tensor, "B H W 3"] | None,
        steps: int = 20,
        cfg_scale: float = 4.0,
        generator: torch.Generator | None = None,
        pose_scale: float = 1.0,
    ) -> Float[Tensor, "B H W 3"]:
        """DDIM samples (Song et al. 2021, eta = 0).

        Args:
            prompts: one for each sample.
            negatives: negative prompts, as many.
            control: pose maps in [0, 1]; None: no pose control.
            steps: of DDIM.
            cfg_scale: of classifier-free guidance.
            generator: of the initial noise, on the CPU.
            pose_scale: guidance on the pose map, for half as many predictions again where it is not 1: the prediction
                moves ``pose_scale - 1`` times the difference that the map makes to the prompt's prediction. A second
                scale as in InstructPix2Pix (Brooks et al. 2023, eq. 3), whose difference is taken without text.

        Returns:
            Images in [0, 1].

        Raises:
            UserError: if the samples are not finite.
            ValueError: for guidance on a pose map without pose maps.
        """
        if pose_scale != 1 and control is None:
            raise ValueError(f"pose_scale={pose_scale} without pose maps")
        n = len(prompts)
        cond = self.encode_prompts([*negatives, *prompts])
        doubled = None if control is None else torch.cat([control, control])
        shape = (n, self.latent_channels, self.latent_size, self.latent_size)
        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        z = torch.randn(shape, generator=generator).to(self.device)
        for t in scheduler.timesteps.tolist():
            times = torch.full((2 * n,), t, device=self.device)
            negative, positive = self.denoiser.predict(torch.cat([z, z]), times, cond, doubled).chunk(2)
            predicted = negative + cfg_scale * (positive - negative)
            if pose_scale != 1:
                predicted += (pose_scale - 1) * (positive - self.denoiser.predict(z, times[:n], cond[n:], None))
            z = scheduler.step(predicted, t, z).prev_sample
        images = self.decode_latents(z)
        if not all_finite([images]):
            raise UserError(
                f"prior={self.name}: its samples are NaN or infinite; half precision may overflow: try "
                "prior.precision=float32 or bfloat16"
            )
        return images

    # ---- memory and time

    def use_less_memory(self, images: int) -> str:
        """Halve the images of a call of the networks; once it is one, checkpoint the VAE's encoder. No measure changes
        a result.

        Args:
            images: in a batch, where no chunk is set yet.

        Returns:
            The overrides that set all measures from the start; empty if there was no measure left.
        """
        codec, denoiser = self.codec, self.denoiser
        if (codec.encode_chunk, denoiser.predict_chunk) != (1, 1):
            codec.encode_chunk = max((codec.encode_chunk or images) // 2, 1)
            denoiser.predict_chunk = max((denoiser.predict_chunk or images) // 2, 1)
        elif not codec.checkpoints:
            codec.vae.enable_gradient_checkpointing()
        else:
            return ""
        checkpoints = " prior.checkpoint_encoder=true" if codec.checkpoints else ""
        return f"prior.encode_chunk={codec.encode_chunk} prior.predict_chunk={denoiser.predict_chunk}{checkpoints}"

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the context there are no chunks and no checkpoints: the networks' own cost."""
        codec, denoiser = self.codec, self.denoiser
        before = codec.encode_chunk, denoiser.predict_chunk, codec.checkpoints
        codec.encode_chunk = denoiser.predict_chunk = 0
        codec.vae.encoder.gradient_checkpointing = False
        try:
            yield
        finally:
            codec.encode_chunk, denoiser.predict_chunk, codec.vae.encoder.gradient_checkpointing = before

    def accelerate(self, how: Compile, *, steps: int, batch: int) -> Compile:
        """Compile or capture calls whose shapes recur (``prior.accelerate``).

        Args:
            how: the setting; ``auto`` is resolved.
            steps: of the run to come.
            batch: images of its steps.

        Returns:
            What was chosen.
        """
        parameters = self.denoiser.parameter_count
        if how is Compile.auto:
            how = Compile.never
            if self.device.type == "cuda":
                how = accelerate.choose(parameters, self._seconds(batch), steps)
        if how is Compile.never:
            return how
        make = accelerate.compiled if how is Compile.always else accelerate.captured
        # A graph holds what it keeps for a backward pass all the time: only small networks' are captured with it.
        with_gradients = parameters < accelerate.SMALL or how is Compile.always
        self.denoiser.accelerate(make, with_gradients=with_gradients)
        if with_gradients:
            self.codec.accelerate(make)
        return how

    def _seconds(self, batch: int) -> float:
        """Measured seconds of a prediction for each of ``batch`` images."""
        random = torch.Generator().manual_seed(0)
        z_t = torch.randn(batch, self.latent_channels, self.latent_size, self.latent_size, generator=random)
        rows = self.token_length + bool(self.denoiser.pooled_width)
        cond = torch.randn(batch, rows, self.unet.config.cross_attention_dim, generator=random)
        control = torch.zeros(batch, self.image_size, self.image_size, 3)
        return self.denoiser.seconds(z_t, torch.full((batch,), self.num_timesteps // 2), cond, control)


def load_prior(
    config: PriorConfig, device: torch.device | str = "cpu", sources: Mapping[str, Source] | None = None
) -> StableDiffusionPrior:
    """Load a prior. Files of the hub that are not in its cache are downloaded; pickles are read as plain tensors only.

    Args:
        config: names it.
        device: where it computes.
        sources: result of ``locate(config)``, if the files were located already.

    Raises:
        UserError: a folder or file is missing, incomplete, damaged, or a pickle of more than tensors; there is no
            ControlNet; the parts do not fit each other; a weight is not finite; the hub cannot be reached.
    """
    sources = dict(sources or locate(config))
    if any(must_be_fetched(name, source) for name, source in sources.items()):
        fetch(config)
        sources = {name: replace(source, offline=True) for name, source in locate(config).items()}
    loras = [lora.read(entry) for entry in config.lora]
    compute = Compute.of(config, device)
    classes: dict[str, tuple[Any, torch.dtype | None]] = {
        "tokenizer": (CLIPTokenizer, None),
        "scheduler": (DDIMScheduler, None),
        "text_encoder": (CLIPTextModel, torch.float32),
        "vae": (AutoencoderKL, torch.float32),
        "unet": (UNet2DConditionModel, compute.dtype),
        "controlnet": (ControlNetModel, compute.dtype),
    }
    if "text_encoder_2" in sources:
        classes |= {
            "tokenizer_2": (CLIPTokenizer, None),
            "text_encoder_2": (CLIPTextModelWithProjection, torch.float32),
        }
    with quiet():
        tiny = load_tiny_encoder(config.tiny_encoder) if config.encoder is Encoder.tiny else None  # errors first
        parts = {name: load_component(cls, sources[name], name, dtype) for name, (cls, dtype) in classes.items()}
        if config.vae:
            check_vae_scale(parts["vae"], Path(config.path).expanduser() / "vae" / "config.json")
        if loras and "text_encoder_2" in parts:
            raise UserError(
                f"prior.lora: files for Stable Diffusion XL are not supported; leave it out with prior={config.name}"
            )
        lora.fuse(loras, parts["unet"], parts["text_encoder"])
        set_prediction(parts, config.prediction, sources["unet"], device)
        is_folder = sources["unet"].is_local and not sources["unet"].layout
        words = Words.read(Path(sources["unet"].name)) if is_folder else Words()
        return assemble(config, Parts(**parts, tiny=tiny), device, words)


def assemble(
    config: PriorConfig, parts: Parts, device: torch.device | str, words: Words | None = None
) -> StableDiffusionPrior:
    """A prior of these parts that computes as ``config`` says."""
    prior = StableDiffusionPrior(parts, Compute.of(config, device), words, config.name)
    allow_tf32(prior.denoiser.dtype is not torch.float32)
    return prior
