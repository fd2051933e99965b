"""The learned background: a small network from view directions to colours (DreamFusion, section 3.1)."""

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
    """The colour of the environment in every direction, with its own Adam. Initially a plain middle grey."""

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
        """Renders of an avatar on black, composited onto the background."""
        return rgb + (1 - alpha) * self(view_directions(cameras))

    def update(self) -> None:
        """One step, if the background was visible and its gradients are finite; gradients are dropped."""
        gradients = [parameter.grad for parameter in self.network.parameters()]
        there = [gradient for gradient in gradients if gradient is not None]
        if len(there) == len(gradients) and all_finite(there):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters, and after the first step Adam's moments."""
        parameters = dict(self.network.named_parameters())
        return {name: value.detach() for name, value in parameters.items()} | optimizer_tensors(
            self.optimizer, parameters
        )

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue exactly from a ``state_dict`` of the same settings.

        Raises:
            UserError: if it belongs to another network.
        """
        parameters = dict(self.network.named_parameters())
        for name, parameter in parameters.items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise UserError(
                    "checkpoint: its learned background is another one than optimize.background, "
                    "optimize.environment.width and .octaves ask for; start from scratch with overwrite=true"
                )
            with torch.no_grad():
                parameter.copy_(tensors[name])
        load_optimizer_tensors(self.optimizer, parameters, tensors)


def view_directions(cameras: Cameras) -> Float[Tensor, "B H W 3"]:
    """Unit directions in the world of the rays through the pixels' centres."""
    like = cameras.K
    rows = torch.arange(cameras.height, dtype=like.dtype, device=like.device) + 0.5
    columns = torch.arange(cameras.width, dtype=like.dtype, device=like.device) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = (
        torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv_ex(cameras.K).inverse.transpose(-1, -2)[:, None]
    )
    return F.normalize(rays @ cameras.T_camera_world[:, None, :3, :3], dim=-1)
