"""A Stable Diffusion prior with ControlNet: any folder or hub name in diffusers' format, or single files.

The one adapter between diffusers and the rest of the program, which knows only ``protocols.Prior``.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

from avatar_gs.core.device import all_finite, allow_tf32
from avatar_gs.core.errors import UserError
from avatar_gs.prior import accelerate, tokens, vocabulary
from avatar_gs.prior.config import PLACEHOLDER, Compile, Encoder, EncoderKeeps, PriorConfig
from avatar_gs.prior.image_encoder import ImageEncoder, vae_mean
from avatar_gs.prior.loading import lora
from avatar_gs.prior.loading.components import (
    Quiet,
    choose_dtype,
    choose_encoder_keeps,
    choose_vae_dtype,
    load_component,
    load_tiny_encoder,
    set_prediction,
)
from avatar_gs.prior.loading.hub import fetch
from avatar_gs.prior.loading.sources import locate, must_be_fetched
from avatar_gs.prior.low_memory_layers import keep_less, keep_less_of_norms
from avatar_gs.prior.memory_estimate import DECODE_BATCH
from avatar_gs.prior.schedule import to_eps
from avatar_gs.prior.vocabulary import COMMON, WELL_KNOWN
from avatar_gs.protocols import Adapter, Describable

CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""What UNets of other models are told beside time and text."""
LATENT_SIZE = 64
"""Of Stable Diffusion 1.x, whose first configurations do not say it."""
SCALING_FACTOR, SCALE_TOLERANCE = 0.18215, 0.01
"""By which the VAE of Stable Diffusion 1.x and 2.x scales its latents."""


class StableDiffusionPrior:
    """Implements ``types.IdentityPrior``. All parameters are frozen; gradients flow to inputs only.

    Inputs and outputs are float32 whatever the networks compute in: a residual subtracts nearly equal predictions.
    ``encode_chunk``, ``checkpoint_encoder``, ``encoder_keeps``, ``predict_chunk`` and ``offload_text`` save memory
    (``PriorConfig``), and change nothing else.

    Args:
        dtype: what UNet and ControlNet compute in.
        encoder_dtype: what the encoders compute in; the VAE's decoder and the text encoder stay in float32.
        tiny: encodes the first ``tiny_until`` of a run (``encoder_at``).
    """

    def __init__(
        self,
        *,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        scheduler: DDIMScheduler,
        name: str = "custom",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        control_scale: float = 1.0,
        encode_chunk: int = 0,
        checkpoint_encoder: bool = False,
        encoder_keeps: EncoderKeeps = EncoderKeeps.auto,
        encoder_dtype: torch.dtype = torch.float32,
        tiny: AutoencoderTiny | None = None,
        tiny_until: float = 1.0,
        predict_chunk: int = 0,
        offload_text: bool = False,
        vocabulary: frozenset[str] | None = None,
        known_names: tuple[str, ...] = WELL_KNOWN,
        describable: Describable = COMMON,
    ) -> None:
        _check_fit(text_encoder, vae, unet, controlnet, scheduler)
        self.name = name
        self.device = torch.device(device)
        self.dtype = dtype
        self.control_scale = control_scale
        self.encode_chunk, self.predict_chunk = encode_chunk, predict_chunk
        self.offload_text = offload_text
        self.vocabulary = vocabulary
        self.known_names = known_names
        self.describable = describable
        self.identity: Float[Tensor, "n d"] | None = None
        self.accessories = ""
        self.tokenizer = tokenizer
        self.scheduler: Any = scheduler
        self.text_encoder: Any = text_encoder.requires_grad_(False).eval()
        self.text_encoder.to("cpu" if offload_text else self.device, torch.float32)
        self.encoder_keeps = encoder_keeps = choose_encoder_keeps(encoder_keeps, self.device)
        self.vae = _frozen(vae, self.device, torch.float32, ordinary=encoder_keeps is EncoderKeeps.all)
        if encoder_keeps is EncoderKeeps.least:
            keep_less_of_norms(self.vae.encoder)
        if checkpoint_encoder:
            self.vae.enable_gradient_checkpointing()
        halves = [part for part in (self.vae.encoder, self.vae.quant_conv) if part is not None]
        self.vae_encoder = ImageEncoder(vae_mean(self.vae), halves, encoder_dtype, "the VAE's encoder")
        self.tiny_encoder: ImageEncoder | None = None
        self.tiny_until = 0.0
        if tiny is not None:
            _check_tiny(tiny, self.vae)
            network = _frozen(tiny.encoder, self.device, torch.float32)
            self.tiny_encoder = ImageEncoder(network, [network], encoder_dtype, "the tiny encoder")
            self.tiny_until = tiny_until
            about: Any = tiny.config
            self._tiny_shift, self._tiny_scale = float(about.get("shift_factor", 0.0)), float(about["scaling_factor"])
        self.faster: accelerate.Accelerated | None = None
        self.unet = _frozen(unet, self.device, dtype)
        self.controlnet = _frozen(controlnet, self.device, dtype)
        self.latent_size = int(self.unet.config.sample_size or LATENT_SIZE)
        self.latent_channels = int(self.unet.config.in_channels)
        self.image_size = self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.token_length = min(int(tokenizer.model_max_length), int(text_encoder.config.max_position_embeddings))
        self.text_width = int(text_encoder.config.hidden_size)
        self.num_timesteps = int(self.scheduler.config.num_train_timesteps)
        self.prediction_type = str(self.scheduler.config.prediction_type)
        self.calls = 0
        alphas_cumprod = self.scheduler.alphas_cumprod.double()
        self._alpha = alphas_cumprod.sqrt().float().to(self.device)
        self._sigma = (1 - alphas_cumprod).sqrt().float().to(self.device)

    # ---- text

    def encode_prompts(
        self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "B L d"]:
        """The text encoder's last hidden states, ``L = token_length``; longer prompts are cut (see ``truncate``).

        Every ``<id>`` in a prompt is read as the rows of ``identity`` (by default ``self.identity``), which take the
        places of n token embeddings; differentiable in them.

        Raises:
            UserError: for a prompt with ``<id>`` where no identity is given.
        """
        rows = self.identity if identity is None else identity
        if rows is not None:
            with self._text_encoder_here(keep=rows.requires_grad):
                return tokens.encode_with_rows(self.text_encoder, self.tokenizer, self.token_length, prompts, rows)
        for prompt in prompts:
            if PLACEHOLDER in prompt:
                raise UserError(
                    f"prompt “{prompt}”: nobody is known as {PLACEHOLDER}; give photos=<folder> of one person, or "
                    "identity=<file>, or leave it out"
                )
        encoded = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.token_length, truncation=True, return_tensors="pt"
        )
        with self._text_encoder_here():
            return self.text_encoder(encoded.input_ids.to(self.device))[0]

    @contextmanager
    def _text_encoder_here(self, *, keep: bool = False) -> Iterator[None]:
        """The text encoder on the prior's device while this lasts (``keep``: longer, for the backward pass through
        it)."""
        self.text_encoder.to(self.device)
        yield
        if self.offload_text and not keep:
            self.text_encoder.to("cpu")

    def token_embeddings(self, text: str) -> Float[Tensor, "n d"]:
        """The input embeddings of the tokens of ``text``, without those that mark its beginning and end."""
        return tokens.token_embeddings(self.text_encoder, self.tokenizer, text).to(self.device)

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]:
        """``(kept, cut)``: what is read of a prompt that leaves room for ``reserve`` after it, and what is not.
        ``<id>`` takes as many tokens as the identity has rows."""
        rows = 1 if self.identity is None else len(self.identity)
        return tokens.truncate(self.tokenizer, self.token_length, prompt, reserve, rows)

    def truncated(self, prompt: str) -> str:
        """The end of the prompt that does not fit into the token length ("" if all of it fits)."""
        return self.truncate(prompt)[1]

    def unknown_words(self, prompt: str) -> list[str]:
        """The words that this prior never saw in training, if it knows its vocabulary (only small priors do)."""
        return [] if self.vocabulary is None else vocabulary.unknown_words(prompt, self.vocabulary)

    # ---- pictures

    def encode_images(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents (the posterior's mean) of pictures in [0, 1]; differentiable. Larger pictures are averaged
        down to ``image_size`` first."""
        latents = torch.cat([self.vae_encoder(chunk) for chunk in self._pixels(images)])
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def encode_tiny(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """``encode_images`` by the tiny encoder, whose latents come scaled (its ``scaling_factor`` is 1)."""
        assert self.tiny_encoder is not None
        latents = torch.cat([self.tiny_encoder(chunk) for chunk in self._pixels(images)])
        return (latents - self._tiny_shift) * self._tiny_scale

    def encoder_at(self, progress: float) -> Callable[[Tensor], Tensor]:
        """What encodes the renders of a step, ``encode_images`` or ``encode_tiny``, by the fraction of the steps that
        lie before it."""
        return self.encode_tiny if progress < self.tiny_until else self.encode_images

    def _pixels(self, images: Tensor) -> Sequence[Tensor]:
        """Images in [-1, 1] as the encoders take them, in chunks."""
        pixels = images.permute(0, 3, 1, 2).float() * 2 - 1
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            pixels = F.interpolate(pixels, (self.image_size, self.image_size), mode="area")
        return pixels.contiguous(memory_format=torch.channels_last).split(self.encode_chunk or max(len(pixels), 1))

    def decode_latents(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B H W 3"]:
        """Pictures in [0, 1] of scaled latents."""
        unscaled = latents.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        chunk = min(DECODE_BATCH, self.encode_chunk or DECODE_BATCH)
        pixels = torch.cat([self.vae.decode(part).sample for part in unscaled.split(chunk)])
        return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    # ---- noise

    def alpha(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sqrt(alphas_cumprod[t])."""
        return self._alpha[t]

    def sigma(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sqrt(1 - alphas_cumprod[t])."""
        return self._sigma[t]

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """The noise prediction in float32, whatever the network itself predicts; ``control=None`` leaves the
        ControlNet out."""
        output = self._predict(z_t, t, cond, control)
        alpha, sigma = (value[:, None, None, None] for value in (self.alpha(t), self.sigma(t)))
        return to_eps(self.scheduler.config.prediction_type, output, z_t, alpha, sigma)

    def adapter(self, rank: int) -> Adapter:
        """A trainable twin of the UNet, told the camera; this prior stays as it is."""
        from avatar_gs.prior.adapter import CameraLora  # peft takes seconds to import, and only VSD needs it

        return CameraLora(self, rank)

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
        """DDIM samples (Song et al. 2021, eta = 0): pictures in [0, 1]. ``generator`` lives on the CPU.

        Another ``pose_scale`` than 1 adds guidance on the pose map, for half as many predictions again: the
        prediction moves ``pose_scale - 1`` times the way from the prompt without the map to the prompt with it. It
        is a second scale like that of InstructPix2Pix (Brooks et al. 2023, eq. 3), which goes that way without text.

        Raises:
            ValueError: for guidance on a pose map that is not given.
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
            negative, positive = self._predict(torch.cat([z, z]), times, cond, doubled).chunk(2)
            predicted = negative + cfg_scale * (positive - negative)
            if pose_scale != 1:
                predicted += (pose_scale - 1) * (positive - self._predict(z, times[:n], cond[n:], None))
            z = scheduler.step(predicted, t, z).prev_sample
        images = self.decode_latents(z)
        if not all_finite([images]):
            raise UserError(
                f"prior={self.name}: its samples are NaN or infinite; half precision may overflow: try "
                "prior.precision=float32 or bfloat16"
            )
        return images

    def _predict(self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None) -> Tensor:
        """What the network itself predicts, in float32."""
        self.calls += len(z_t)
        size = self.predict_chunk or len(z_t)
        if len(z_t) <= size:
            return self._networks(z_t, t, cond, control)
        parts = [value.split(size) for value in (z_t, t, cond)]
        controls = [None] * len(parts[0]) if control is None else control.split(size)
        chunks = zip(*parts, controls, strict=True)
        if torch.is_grad_enabled():  # never accelerated: both passes through a chunk must keep the same
            slow = [self._arguments(*chunk) for chunk in chunks]
            return torch.cat([checkpoint(self._denoise, *chunk, use_reentrant=False) for chunk in slow])
        return torch.cat([self._networks(*chunk) for chunk in chunks])

    def _networks(self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None) -> Tensor:
        """ControlNet and UNet, once, as fast as may be."""
        return (self.faster or self._denoise)(*self._arguments(z_t, t, cond, control))

    def _arguments(
        self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """As the networks take them; no control at a scale of 0, where it would add zeros."""
        z_t = z_t.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        pose_map = None
        if control is not None and self.control_scale:
            pose_map = control.to(self.device, self.dtype).permute(0, 3, 1, 2).contiguous()
        return z_t, t.to(self.device), cond.to(self.device, self.dtype), pose_map

    def _denoise(self, z_t: Tensor, t: Tensor, cond: Tensor, pose_map: Tensor | None) -> Tensor:
        """What the networks answer, in float32."""
        extra: dict[str, Any] = {}
        if pose_map is not None:
            down, middle = self.controlnet(
                z_t, t, cond, pose_map, conditioning_scale=self.control_scale, return_dict=False
            )
            extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(z_t, t, encoder_hidden_states=cond, return_dict=False, **extra)[0].float()

    def use_less_memory(self, images: int) -> str:
        """Halves the images of a call of the networks; once it is one, the VAE's encoder keeps little for its backward
        pass. No measure changes a result.

        Args:
            images: in a batch, where no chunk is set yet.

        Returns:
            The overrides that set all measures from the start; empty where none was left to take.
        """
        if (self.encode_chunk, self.predict_chunk) != (1, 1):
            self.encode_chunk = max((self.encode_chunk or images) // 2, 1)
            self.predict_chunk = max((self.predict_chunk or images) // 2, 1)
        elif not self.vae.encoder.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        else:
            return ""
        checkpoints = " prior.checkpoint_encoder=true" if self.vae.encoder.gradient_checkpointing else ""
        return f"prior.encode_chunk={self.encode_chunk} prior.predict_chunk={self.predict_chunk}{checkpoints}"

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While this lasts, pictures are seen all at once and nothing is computed twice: what the networks cost."""
        before = self.encode_chunk, self.predict_chunk, self.vae.encoder.gradient_checkpointing
        self.encode_chunk = self.predict_chunk = 0
        self.vae.encoder.gradient_checkpointing = False
        try:
            yield
        finally:
            self.encode_chunk, self.predict_chunk, self.vae.encoder.gradient_checkpointing = before

    def accelerate(self, how: Compile, *, steps: int, batch: int) -> Compile:
        """Has calls of shapes that recur compiled or captured (``accelerate``); returns what was chosen.

        Args:
            steps, batch: of the run that is about to begin, by which ``auto`` decides.
        """
        parameters = sum(value.numel() for network in (self.unet, self.controlnet) for value in network.parameters())
        if how is Compile.auto:
            how = Compile.never
            if self.device.type == "cuda":
                how = accelerate.choose(parameters, self._seconds(batch), steps)
        if how is Compile.never:
            return how
        make = accelerate.compiled if how is Compile.always else accelerate.captured
        small = parameters < accelerate.SMALL
        gradients = small or how is Compile.always  # what a graph keeps for a backward pass is held all the time
        name = "UNet and ControlNet"
        self.faster = accelerate.Accelerated(self._denoise, make, self.dtype, name, with_gradients=gradients)
        for encoder in (self.vae_encoder, self.tiny_encoder):
            if encoder is not None and gradients and not self.vae.encoder.gradient_checkpointing:
                encoder.encode = accelerate.Accelerated(encoder.encode, make, encoder.dtype, encoder.name)
        return how

    @torch.no_grad()
    def _seconds(self, batch: int) -> float:
        """Seconds of a prediction for each of ``batch`` images, as it is."""
        random = torch.Generator().manual_seed(0)
        z_t = torch.randn(batch, self.latent_channels, self.latent_size, self.latent_size, generator=random)
        cond = torch.randn(batch, self.token_length, self.text_width, generator=random)
        control = torch.zeros(batch, self.image_size, self.image_size, 3)
        arguments = self._arguments(z_t, torch.full((batch,), self.num_timesteps // 2), cond, control)
        seconds = 0.0
        for _ in range(2):  # the first chooses kernels
            began = time.perf_counter()
            self._denoise(*arguments)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds = time.perf_counter() - began
        return seconds


def load_prior(config: PriorConfig, device: torch.device | str = "cpu") -> StableDiffusionPrior:
    """The prior that ``config`` names, on ``device``.

    Pickled files are read as plain tensors only, and only hub names reach for the network.

    Raises:
        UserError: a folder or file is missing, incomplete, damaged, or a pickle of more than tensors; there is no
            ControlNet; the parts do not fit each other; a weight is not finite; the hub cannot be reached.
    """
    places = config.path, config.controlnet, config.vae, config.tokenizer, config.prediction
    sources = locate(*places)
    if any(must_be_fetched(name, source) for name, source in sources.items()):
        fetch(config)
        found = locate(*places)
        sources = {name: replace(source, offline=True) for name, source in found.items()}  # all of it is here now
    loras = [lora.read(entry) for entry in config.lora]
    dtype = choose_dtype(config.precision, device)
    with Quiet():
        tiny = load_tiny_encoder(config.tiny_encoder) if config.encoder is Encoder.tiny else None  # wrong ones soon
        parts = {
            "tokenizer": load_component(CLIPTokenizer, sources["tokenizer"], "tokenizer"),
            "scheduler": load_component(DDIMScheduler, sources["scheduler"], "scheduler"),
            "text_encoder": load_component(CLIPTextModel, sources["text_encoder"], "text_encoder", torch.float32),
            "vae": load_component(AutoencoderKL, sources["vae"], "vae", torch.float32),
            "unet": load_component(UNet2DConditionModel, sources["unet"], "unet", dtype),
            "controlnet": load_component(ControlNetModel, sources["controlnet"], "controlnet", dtype),
        }
        if tiny is not None:
            parts["tiny"] = tiny
        if config.vae:
            _check_vae_scale(parts["vae"], Path(config.path).expanduser() / "vae" / "config.json")
        lora.fuse(loras, parts["unet"], parts["text_encoder"])
        set_prediction(parts, config.prediction, sources["unet"], device)
        is_folder = sources["unet"].is_local and not sources["unet"].layout
        folder = Path(sources["unet"].name) if is_folder else None
        return assemble(
            config,
            parts,
            device,
            vocabulary=vocabulary.read_vocabulary(folder) if folder else None,
            known_names=vocabulary.known_names(folder),
            describable=vocabulary.describable(folder),
        )


def assemble(
    config: PriorConfig, parts: dict[str, Any], device: torch.device | str, **more: Any
) -> StableDiffusionPrior:
    """A prior of these parts, as ``config`` wants it computed."""
    prior = StableDiffusionPrior(
        **parts,
        name=config.name,
        device=device,
        dtype=choose_dtype(config.precision, device),
        control_scale=config.control_scale,
        encode_chunk=config.encode_chunk,
        checkpoint_encoder=config.checkpoint_encoder,
        encoder_keeps=config.encoder_keeps,
        encoder_dtype=choose_vae_dtype(config, device),
        tiny_until=config.tiny_until,
        predict_chunk=config.predict_chunk,
        offload_text=config.offload_text,
        **more,
    )
    allow_tf32(prior.dtype is not torch.float32)
    return prior


def _check_vae_scale(vae: Any, own: Path) -> None:
    """Raises UserError for a VAE that is given in place of a prior's ``own``, and scales its latents in another way, as
    those of other models do."""
    content = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    expected, found = content.get("scaling_factor", SCALING_FACTOR), vae.config.scaling_factor
    if abs(found / expected - 1) > SCALE_TOLERANCE:
        raise UserError(
            f"prior.vae: it scales its latents by {found}, this prior's by {expected}: it belongs to another model "
            "(Stable Diffusion XL's is .13025); expected a VAE of Stable Diffusion 1.x or 2.x"
        )


def _blocks(network: Any) -> tuple[list[int], list[int]]:
    """Channels of each block of a UNet's way down, and layers of each."""
    channels, layers = list(network.config.block_out_channels), network.config.layers_per_block
    return channels, [layers] * len(channels) if isinstance(layers, int) else list(layers)


def _frozen(network: Any, device: torch.device, dtype: torch.dtype, *, ordinary: bool = False) -> Any:
    """A convolutional network for inference, in the memory layout that convolutions are fastest in; ``ordinary``: with
    torch's own convolutions."""
    if not ordinary:
        keep_less(network)
    return network.requires_grad_(False).eval().to(device, dtype).to(memory_format=torch.channels_last)


def _check_tiny(tiny: Any, vae: Any) -> None:
    """Raises UserError for a tiny encoder of other latents than the VAE's."""
    own = int(vae.config.latent_channels), 2 ** (len(vae.config.block_out_channels) - 1)
    found = int(tiny.config.latent_channels), 2 ** (len(tiny.config.encoder_block_out_channels) - 1)
    if found != own:
        raise UserError(
            f"prior.tiny_encoder: its latents have {found[0]} channels at 1/{found[1]} of the image's size, the VAE's "
            f"{own[0]} at 1/{own[1]}: expected an AutoencoderTiny distilled from this prior's VAE (madebyollin/taesd "
            "for Stable Diffusion 1.x and 2.x)"
        )


def _check_fit(text_encoder: Any, vae: Any, unet: Any, controlnet: Any, scheduler: Any) -> None:
    """Raises UserError where parts from different places do not belong together."""
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"prior: prediction_type={kind} in its scheduler: expected epsilon or v_prediction")
    widths = {
        "text encoder": text_encoder.config.hidden_size,
        "UNet": unet.config.cross_attention_dim,
        "ControlNet": controlnet.config.cross_attention_dim,
    }
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(
            f"prior: its parts read text of different widths ({found}): give a ControlNet (prior.controlnet=…) that "
            "was made for this prior; Stable Diffusion 1.5 is 768 wide, 2.1 is 1024"
        )
    if _blocks(controlnet) != _blocks(unet):
        raise UserError(
            "prior: the ControlNet has other blocks than the UNet (channels, layers a block): give one with "
            "prior.controlnet=… that was made for this prior"
        )
    conditions = [name for name in CONDITIONS if getattr(unet.config, name, None) is not None]
    if conditions or unet.config.out_channels != unet.config.in_channels:
        found = f"reads more than text ({', '.join(conditions)})" if conditions else "predicts more than the noise"
        raise UserError(f"prior: its UNet {found}: expected a text-to-image Stable Diffusion 1.x or 2.x")
    if getattr(vae.config, "latents_mean", None) is not None:
        raise UserError(
            "prior: its VAE shifts each channel of its latents (latents_mean), which Stable Diffusion 1.x and 2.x do "
            "not: give another with prior.vae=…"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"prior: the UNet reads {unet.config.in_channels} channels, the VAE makes {vae.config.latent_channels}: "
            "inpainting models and foreign VAEs do not serve; expected a text-to-image model"
        )
