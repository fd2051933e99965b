"""UNet and ControlNet as one function: noise predictions in float32, in any prediction type of the network."""

import time
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from avatar_gs.prior.accelerate import Accelerated, Make
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.low_memory_layers import prepared
from avatar_gs.prior.schedule import to_eps
from avatar_gs.prior.two_text_encoders import split_pooled

POOLED = "text_time"
"""``addition_embed_type`` of Stable Diffusion XL's networks: they read a pooled text and sizes."""
SIZES = 6
"""Numbers of these sizes."""


class Denoiser:
    """Noise prediction by frozen networks; gradients flow to its inputs only.

    Args:
        unet: diffusers' ``UNet2DConditionModel``.
        controlnet: diffusers' ``ControlNetModel`` for the UNet.
        scheduler: holds the noise schedule and what the UNet predicts.
        compute: device, number format, ``control_scale`` and ``predict_chunk``.
        image_size: side of the images in pixels, which Stable Diffusion XL's networks read as a condition.
    """

    def __init__(
        self, unet: Any, controlnet: Any, scheduler: DDIMScheduler, compute: Compute, image_size: int = 0
    ) -> None:
        self.image_size, self.pooled_width = image_size, pooled_width(unet.config)
        self.device, self.dtype = compute.device, compute.dtype
        self.control_scale, self.predict_chunk = compute.control_scale, compute.predict_chunk
        self.unet = prepared(unet, self.device, self.dtype)
        self.controlnet = prepared(controlnet, self.device, self.dtype)
        config: Any = scheduler.config
        self.prediction_type = str(config.prediction_type)
        alphas_cumprod = scheduler.alphas_cumprod.double()
        self.alphas = alphas_cumprod.sqrt().float().to(self.device)
        self.sigmas = (1 - alphas_cumprod).sqrt().float().to(self.device)
        self.calls = 0
        """Predictions so far, counted per image."""
        self.accelerated: Accelerated | None = None

    @property
    def parameter_count(self) -> int:
        return sum(value.numel() for network in (self.unet, self.controlnet) for value in network.parameters())

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
        camera: Float[Tensor, "B k"] | None = None,
    ) -> Float[Tensor, "B c h w"]:
        """The predicted noise.

        Args:
            z_t: noised latents.
            t: timesteps.
            cond: text conditions.
            control: pose maps in [0, 1]; None leaves the ControlNet out.
            camera: condition that is added to the time embedding (see ``adapter.CameraTime``).
        """
        output = self.predict(z_t, t, cond, control, camera)
        alpha, sigma = (values[t][:, None, None, None] for values in (self.alphas, self.sigmas))
        return to_eps(self.prediction_type, output, z_t, alpha, sigma)

    def predict(
        self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None, camera: Tensor | None = None
    ) -> Tensor:
        """The UNet's own output in float32, computed in chunks of ``predict_chunk`` images."""
        self.calls += len(z_t)
        size = self.predict_chunk or len(z_t)
        if len(z_t) <= size:
            return self.call(z_t, t, cond, control, camera)
        count = -(-len(z_t) // size)
        parts = [value.split(size) for value in (z_t, t, cond)]
        optional = [[None] * count if value is None else value.split(size) for value in (control, camera)]
        chunks = zip(*parts, *optional, strict=True)
        if torch.is_grad_enabled():  # never accelerated: the forward and the repeated pass must be the same function
            inputs = [self._inputs(*chunk) for chunk in chunks]
            return torch.cat([checkpoint(self._networks, *chunk, use_reentrant=False) for chunk in inputs])
        return torch.cat([self.call(*chunk) for chunk in chunks])

    def call(self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None, camera: Tensor | None) -> Tensor:
        """One call of the networks, accelerated if ``accelerate`` was called."""
        inputs = self._inputs(z_t, t, cond, control, camera)
        if self.accelerated is None or camera is not None:
            return self._networks(*inputs)
        return self.accelerated(*inputs[:4])

    def accelerate(self, make: Make, *, with_gradients: bool) -> None:
        """Compile or capture calls whose shapes recur (see ``accelerate.Accelerated``)."""
        name = "UNet and ControlNet"
        self.accelerated = Accelerated(self._networks, make, self.dtype, name, with_gradients=with_gradients)

    @torch.no_grad()
    def seconds(self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor) -> float:
        """Measured time of one call."""
        inputs = self._inputs(z_t, t, cond, control, None)
        seconds = 0.0
        for _ in range(2):  # the first call chooses kernels
            began = time.perf_counter()
            self._networks(*inputs)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds = time.perf_counter() - began
        return seconds

    def _inputs(
        self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None, camera: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """In the networks' format; no control at a scale of 0, where it would add zeros."""
        z_t = z_t.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        pose_map = None
        if control is not None and self.control_scale:
            pose_map = control.to(self.device, self.dtype).permute(0, 3, 1, 2).contiguous()
        return z_t, t.to(self.device), cond.to(self.device, self.dtype), pose_map, camera

    def _networks(
        self, z_t: Tensor, t: Tensor, cond: Tensor, pose_map: Tensor | None, camera: Tensor | None = None
    ) -> Tensor:
        extra: dict[str, Any] = {} if camera is None else {"timestep_cond": camera}
        added: dict[str, Any] = {}
        if self.pooled_width:
            cond, pooled = split_pooled(cond, self.pooled_width)
            added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": self._sizes(z_t)}}
            extra |= added
        if pose_map is not None:
            down, middle = self.controlnet(
                z_t, t, cond, pose_map, conditioning_scale=self.control_scale, return_dict=False, **added
            )
            extra |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(z_t, t, encoder_hidden_states=cond, return_dict=False, **extra)[0].float()

    def _sizes(self, z_t: Tensor) -> Float[Tensor, "B 6"]:
        """Stable Diffusion XL's conditions on sizes: original size, crop's corner, target size (height and width)."""
        size = torch.full((len(z_t), 6), float(self.image_size), device=z_t.device, dtype=z_t.dtype)
        size[:, 2:4] = 0
        return size


def pooled_width(config: Any) -> int:
    """Numbers of the pooled text that a UNet of Stable Diffusion XL reads; 0: another UNet."""
    if getattr(config, "addition_embed_type", None) != POOLED:
        return 0
    return int(config.projection_class_embeddings_input_dim) - SIZES * int(config.addition_time_embed_dim)
