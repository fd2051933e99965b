"""A trainable twin of a prior's UNet: LoRA on its attention, and the camera beside the time. For VSD."""

import copy
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from peft import LoraConfig
from torch import Tensor, nn

CAMERA = 16
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


@runtime_checkable
class WithUnet(Protocol):
    """The part of a prior that an adapter needs; ``eps`` uses ``unet``."""

    unet: Any
    calls: int
    device: torch.device
    predict_chunk: int
    faster: Any

    def eps(self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None) -> Tensor: ...


class CameraTime(nn.Module):
    """A time embedding to which the camera's is added (as ProlificDreamer does); at first that is zero."""

    def __init__(self, time: nn.Module, width: int) -> None:
        super().__init__()
        self.time = time
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.embed = nn.Sequential(nn.Linear(CAMERA, width), nn.SiLU(), last)
        self.camera: Tensor | None = None

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        time = self.time(sample, condition)
        camera = time.new_zeros(len(time), CAMERA) if self.camera is None else self.camera.to(time.device)
        return time + self.embed(camera.float()).to(time)


class CameraLora:
    """Implements ``types.Adapter``. The twin shares the prior's frozen tensors, and the prior stays as it is."""

    def __init__(self, prior: WithUnet, rank: int) -> None:
        self.prior = prior
        self.twin = copy.copy(prior)
        frozen = {id(tensor): tensor for tensor in chain(prior.unet.parameters(), prior.unet.buffers())}
        unet = copy.deepcopy(prior.unet, dict(frozen))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION))
            unet.time_embedding = CameraTime(unet.time_embedding, unet.time_embedding.linear_2.out_features)
        self.time = unet.time_embedding
        self.twin.unet = unet
        self.twin.predict_chunk = 0  # the camera is that of all pictures of a call
        self.twin.faster = None  # its camera changes from call to call, and nothing compiled would see that
        self.parameters: dict[str, Tensor] = {}
        for name, parameter in unet.named_parameters():
            if id(parameter) not in frozen:  # in float32 whatever the UNet computes in
                parameter.data = parameter.data.to(prior.device, torch.float32)
                self.parameters[name] = parameter.requires_grad_(True)

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
        camera: Float[Tensor, "B 16"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """The twin's noise prediction, counted among the prior's calls; ``camera=None`` (or zeros) leaves it unsaid."""
        self.time.camera = camera
        self.prior.calls += len(z_t)
        return self.twin.eps(z_t, t, cond, control)
