"""A trainable copy of a prior's UNet: LoRA on its attention, conditioned on the camera. For VSD."""

import copy
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from peft import LoraConfig
from torch import Tensor, nn

from avatar_gs.prior.denoiser import Denoiser
from avatar_gs.prior.low_memory_layers import use_low_memory_convolutions

CAMERA = 16
"""Entries of a flat ``T_camera_world``."""
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class CameraTime(nn.Module):
    """A time embedding plus a learned embedding of the camera (as in ProlificDreamer), which is zero at first.

    The camera arrives as the UNet's ``timestep_cond``; None is read as zeros.
    """

    def __init__(self, time: nn.Module, width: int) -> None:
        super().__init__()
        self.time = time
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.embed = nn.Sequential(nn.Linear(CAMERA, width), nn.SiLU(), last)

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        time = self.time(sample)
        camera = time.new_zeros(len(time), CAMERA) if condition is None else condition.to(time.device)
        return time + self.embed(camera.float()).to(time)


class CameraLora:
    """Implements ``protocols.Adapter``. It shares the storage of the prior's frozen weights.

    Args:
        denoiser: of the prior; it does not change, and counts the adapter's predictions among its ``calls``.
        rank: of the LoRA.
    """

    def __init__(self, denoiser: Denoiser, rank: int) -> None:
        self.denoiser = denoiser
        unet = _shared(denoiser)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION))
            unet.time_embedding = CameraTime(unet.time_embedding, unet.time_embedding.linear_2.out_features)
        self.parameters: dict[str, Tensor] = {}
        for name, parameter in unet.named_parameters():
            if parameter.requires_grad:  # in float32 in any precision of the UNet
                parameter.data = parameter.data.to(denoiser.device, torch.float32)
                self.parameters[name] = parameter
        self.time = unet.time_embedding
        self.twin = copy.copy(denoiser)
        self.twin.unet = unet
        self.twin.accelerated = None  # it holds the prior's UNet

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
        camera: Float[Tensor, "B 16"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """The adapter's noise prediction; see ``Denoiser.eps``."""
        self.denoiser.calls += len(z_t)
        self.twin.predict_chunk = self.denoiser.predict_chunk  # it may have been halved since
        return self.twin.eps(z_t, t, cond, control, camera)


def _shared(denoiser: Denoiser) -> Any:
    """A second UNet whose weights are the denoiser's tensors."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(denoiser.unet.config)
    unet.load_state_dict(denoiser.unet.state_dict(), assign=True)
    use_low_memory_convolutions(unet)
    return unet.requires_grad_(False).eval()
