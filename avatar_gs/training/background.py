"""The learned background: a small network that gives every direction of view a colour (DreamFusion, section 3.1)."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_gs.core.device import all_finite
from avatar_gs.core.errors import UserError
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors
from avatar_gs.core.seeding import derive_seed
from avatar_gs.training.config import EnvironmentConfig
from avatar_gs.types import Cameras


class LearnedBackground:
    """The colour of what stands far behind the avatar, with its own Adam. It begins as a plain middle grey."""

    def __init__(self, config: EnvironmentConfig, seed: int, device: torch.device | str = "cpu") -> None:
        self.octaves = config.octaves
        inputs = 3 * (1 + 2 * config.octaves)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, 0, "environment"))
            self.network = nn.Sequential(nn.Linear(inputs, config.width), nn.SiLU(), nn.Linear(config.width, 3))
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network.to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, foreach=False)

    def __call__(self, directions: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """Colours in (0, 1) of unit directions in the world."""
        angles = [math.pi * 2**octave * directions for octave in range(self.octaves)]
        waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
        return self.network(torch.cat([directions, *waves], -1)).sigmoid()

    def behind(
        self, rgb: Float[Tensor, "B H W 3"], alpha: Float[Tensor, "B H W 1"], cameras: Cameras
    ) -> Float[Tensor, "B H W 3"]:
        """Pictures of an avatar drawn on black, with the background behind it."""
        return rgb + (1 - alpha) * self(view_directions(cameras))

    def update(self) -> None:
        """Take a step along the gradients, if a picture showed the background and they are finite; drop them."""
        gradients = [parameter.grad for parameter in self.network.parameters()]
        there = [gradient for gradient in gradients if gradient is not None]
        if len(there) == len(gradients) and all_finite(there):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters, and Adam's moments after the first step."""
        parameters = dict(self.network.named_parameters())
        return {name: value.detach() for name, value in parameters.items()} | optimizer_tensors(
            self.optimizer, parameters
        )

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue exactly from a ``state_dict`` of the same settings.

        Raises:
            UserError: if it is of another network.
        """
        parameters = dict(self.network.named_parameters())
        for name, parameter in parameters.items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise UserError(
                    "checkpoint: its learned background is another one than optimize.background, "
                    "optimize.environment.width and .octaves ask for; start anew with overwrite=true"
                )
            with torch.no_grad():
                parameter.copy_(tensors[name])
        load_optimizer_tensors(self.optimizer, parameters, tensors)


def view_directions(cameras: Cameras) -> Float[Tensor, "B H W 3"]:
    """The unit direction in the world of the ray through every pixel's centre."""
    like = cameras.K
    rows = torch.arange(cameras.height, dtype=like.dtype, device=like.device) + 0.5
    columns = torch.arange(cameras.width, dtype=like.dtype, device=like.device) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = (
        torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv_ex(cameras.K).inverse.transpose(-1, -2)[:, None]
    )
    return F.normalize(rays @ cameras.T_camera_world[:, None, :3, :3], dim=-1)
