"""What the playground optimises: one picture, held in latents or in colours, as pixels or as a hash grid.

======  ==================  ====================
field   what is optimised   seen by the guidance
======  ==================  ====================
epl     latent pixels       as they are
ehl     a grid of latents   as they are
ehc     a grid of colours   through the encoder
rgb     a picture's pixels  through the encoder
======  ==================  ====================
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar_gs.core.seeding import generator
from avatar_gs.lab.playground.config import FieldKind, GridConfig, Init, PlaygroundConfig
from avatar_gs.lab.playground.grid import HashGrid
from avatar_gs.protocols import Prior

GREY = 0.5
NOISE = 0.25
"""The deviation of a picture's pixels around grey under ``init=gaussian``."""
FIT_STEPS, FIT_RATE, FIT_ERROR = 500, 2e-2, 1e-3
"""A hash grid learns its start with Adam until its mean squared error falls below this share of the target's mean
square, or for so many steps."""


class Pixels(nn.Module):
    """Every value is a parameter of its own."""

    def __init__(self, values: Float[Tensor, "1 c S S"]) -> None:
        super().__init__()
        self.values = nn.Parameter(values.detach().clone())

    def forward(self) -> Float[Tensor, "1 c S S"]:
        return self.values


class Canvas:
    """A picture that can be optimised; ``latents`` and ``picture`` carry its gradients."""

    def __init__(self, values: nn.Module, prior: Prior, kind: FieldKind) -> None:
        self.values = values.to(prior.device)
        self.prior, self.kind = prior, kind

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.values.parameters())

    def raw(self) -> Float[Tensor, "1 c S S"]:
        """What the field itself holds: latents, or colours in [0, 1]."""
        return torch.sigmoid(self.values()) if self.kind is FieldKind.ehc else self.values()

    def latents(self) -> Float[Tensor, "1 c h w"]:
        """As the guidance sees it."""
        raw = self.raw()
        return raw if holds_latents(self.kind) else self.prior.encode_images(raw.permute(0, 2, 3, 1))

    def picture(self) -> Float[Tensor, "1 H W 3"]:
        """As the eye sees it, in [0, 1]."""
        raw = self.raw()
        return self.prior.decode_latents(raw) if holds_latents(self.kind) else raw.permute(0, 2, 3, 1)

    @torch.no_grad()
    def constrain(self) -> None:
        """After an update: pixels stay colours."""
        if isinstance(self.values, Pixels) and not holds_latents(self.kind):
            self.values.values.clamp_(0, 1)


def holds_latents(kind: FieldKind) -> bool:
    return kind in (FieldKind.epl, FieldKind.ehl)


def build_canvas(
    config: PlaygroundConfig, prior: Prior, seed: int, picture: Float[Tensor, "1 H W 3"] | None = None
) -> Canvas:
    """The field as it begins: exactly for pixels, fitted for hash grids.

    Args:
        picture: what ``init=picture`` begins with, in [0, 1], of the prior's size.
    """
    target = first_values(config, prior, seed, picture)
    if config.field in (FieldKind.epl, FieldKind.rgb):
        return Canvas(Pixels(target), prior, config.field)
    canvas = Canvas(_grid(config.grid, target, seed), prior, config.field)
    if config.init is Init.zero:
        with torch.no_grad():
            for parameter in canvas.parameters:
                parameter.zero_()
    else:
        fit(canvas, target)
    return canvas


@torch.no_grad()
def first_values(
    config: PlaygroundConfig, prior: Prior, seed: int, picture: Float[Tensor, "1 H W 3"] | None
) -> Float[Tensor, "1 c S S"]:
    """What ``config.init`` asks the field to hold: latents, or colours in [0, 1]."""
    latent = holds_latents(config.field)
    size, channels = prior.image_size, prior.latent_channels
    random = generator(seed, 0, "playground init")

    def normal(channels: int, size: int) -> Tensor:
        return torch.randn(1, channels, size, size, generator=random).to(prior.device)

    if config.init is Init.gaussian:
        return normal(channels, prior.latent_size) if latent else (GREY + NOISE * normal(3, size)).clamp(0, 1)
    if config.init is Init.zero:
        shape = (channels, prior.latent_size, prior.latent_size) if latent else (3, size, size)
        return torch.zeros(1, *shape, device=prior.device)
    if config.init is Init.decoded:
        seen = prior.decode_latents(normal(channels, prior.latent_size))
    elif config.init is Init.grey:
        seen = torch.full((1, size, size, 3), GREY, device=prior.device)
    else:
        if picture is None:
            raise ValueError("init=picture needs the picture")
        seen = picture.to(prior.device)
    return prior.encode_images(seen) if latent else seen.permute(0, 3, 1, 2).contiguous()


def fit(canvas: Canvas, target: Float[Tensor, "1 c S S"]) -> None:
    """Brings a hash grid to ``target``."""
    optimizer = torch.optim.Adam(canvas.parameters, FIT_RATE, eps=1e-15)
    enough = FIT_ERROR * float(target.square().mean())
    for _ in range(FIT_STEPS):
        error = (canvas.raw() - target).square().mean()
        if float(error.detach()) <= enough:
            return
        optimizer.zero_grad()
        error.backward()
        optimizer.step()


def _grid(config: GridConfig, target: Float[Tensor, "1 c S S"], seed: int) -> HashGrid:
    return HashGrid(config, target.shape[1], target.shape[-1], generator(seed, 0, "playground grid"))
