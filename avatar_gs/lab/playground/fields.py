"""What the playground optimises: one image, as latents or colours, stored as pixels or as a hash grid.

======  ==================  ===================
field   parameters          seen by guidance
======  ==================  ===================
epl     latent pixels       directly
ehl     a grid of latents   directly
ehc     a grid of colours   through the encoder
rgb     image pixels        through the encoder
======  ==================  ===================
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatar_gs.core.seeding import generator
from avatar_gs.lab.playground.config import FieldKind, GridConfig, Init, PlaygroundConfig
from avatar_gs.protocols import Prior

GREY = 0.5
NOISE = 0.25
"""Standard deviation of colours around grey with ``init=gaussian``."""
FIT_STEPS, FIT_RATE = 500, 2e-2
"""Steps at most, and Adam's learning rate, of fitting a hash grid to its initial values."""
FIT_ERROR = 1e-3
"""Fitting ends when the mean squared error is below this fraction of the target's mean square."""
PRIME = 2654435761
"""Multiplier of y in the spatial hash; that of x is 1."""
TABLE_RANGE = 1e-4
"""Table entries are initialised uniformly within ± this."""


class Pixels(nn.Module):
    """Every value is a parameter."""

    def __init__(self, values: Float[Tensor, "1 c S S"]) -> None:
        super().__init__()
        self.values = nn.Parameter(values.detach().clone())

    def forward(self) -> Float[Tensor, "1 c S S"]:
        return self.values


class HashGrid(nn.Module):
    """A multiresolution hash grid (Müller et al. 2022, Instant-NGP) over the pixels of a square image.

    The features of each level's corners are interpolated at the pixel centres and go through an MLP without biases.
    The corners of the finest level are the pixel centres themselves, so that the grid can represent any image.
    """

    def __init__(self, config: GridConfig, channels: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        corners, weights, entries = [], [], 0
        for resolution in resolutions(config, size):
            index, weight = corners_at_pixels(resolution, size, 2**config.log2_table)
            corners.append(index + entries)
            weights.append(weight)
            entries += min(resolution**2, 2**config.log2_table)
        self.corners: Tensor
        self.weights: Tensor
        self.register_buffer("corners", torch.stack(corners))
        self.register_buffer("weights", torch.stack(weights))
        table = torch.rand(entries, config.features, generator=generator) * 2 - 1
        self.table = nn.Parameter(TABLE_RANGE * table)
        inputs = config.levels * config.features
        self.hidden = nn.Parameter(_he(config.width, inputs, generator))
        self.head = nn.Parameter(_he(channels, config.width, generator))

    def forward(self) -> Float[Tensor, "1 c S S"]:
        features = (self.table[self.corners] * self.weights[..., None]).sum(1)  # [levels, pixels, features]
        features = features.transpose(0, 1).flatten(1)
        values = torch.relu(features @ self.hidden.T) @ self.head.T
        return values.T.reshape(1, -1, self.size, self.size)


def resolutions(config: GridConfig, size: int) -> list[int]:
    """Cells along a side of each level, in geometric progression up to ``size``."""
    coarsest = min(config.coarsest, size)
    growth = (size / coarsest) ** (1 / (config.levels - 1))
    return [round(coarsest * growth**level) for level in range(config.levels)]


def corners_at_pixels(
    resolution: int, size: int, table: int
) -> tuple[Int[Tensor, "4 pixels"], Float[Tensor, "4 pixels"]]:
    """Table entries of the four corners around each pixel centre, and their bilinear weights.

    Corners are at the cells' centres; pixels outside the outermost ones take their values.
    """
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (resolution / size) - 0.5
    centres = centres.clamp(0, resolution - 1)
    low = centres.floor().long()
    high = (low + 1).clamp_max(resolution - 1)
    above = centres - low
    index, weight = [], []
    for y, wy in ((low, 1 - above), (high, above)):
        for x, wx in ((low, 1 - above), (high, above)):
            rows, columns = torch.meshgrid(y, x, indexing="ij")
            dense = rows * resolution + columns
            hashed = torch.bitwise_xor(columns, rows * PRIME) % table
            index.append((dense if resolution**2 <= table else hashed).flatten())
            weight.append(torch.outer(wy, wx).flatten().float())
    return torch.stack(index), torch.stack(weight)


def _he(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """He's normal initialisation (2015)."""
    return torch.randn(rows, columns, generator=generator) * (2 / columns) ** 0.5


class Canvas:
    """An image to optimise; ``latents`` and ``image`` are differentiable.

    Args:
        values: the parameters; called without arguments, they give [1, c, S, S].
    """

    def __init__(self, values: nn.Module, prior: Prior, field: FieldKind) -> None:
        self.values = values.to(prior.device)
        self.prior, self.field = prior, field

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.values.parameters())

    def raw(self) -> Float[Tensor, "1 c S S"]:
        """The field's values: latents, or colours in [0, 1]."""
        return torch.sigmoid(self.values()) if self.field is FieldKind.ehc else self.values()

    def latents(self) -> Float[Tensor, "1 c h w"]:
        """What the guidance sees."""
        raw = self.raw()
        return raw if holds_latents(self.field) else self.prior.encode_images(raw.permute(0, 2, 3, 1))

    def image(self) -> Float[Tensor, "1 H W 3"]:
        """The image in [0, 1], decoded if the field holds latents."""
        raw = self.raw()
        return self.prior.decode_latents(raw) if holds_latents(self.field) else raw.permute(0, 2, 3, 1)

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp image pixels to [0, 1] after an update."""
        if isinstance(self.values, Pixels) and self.field is FieldKind.rgb:
            self.values.values.clamp_(0, 1)


def holds_latents(field: FieldKind) -> bool:
    return field in (FieldKind.epl, FieldKind.ehl)


def build_canvas(
    config: PlaygroundConfig, prior: Prior, seed: int, image: Float[Tensor, "1 H W 3"] | None = None
) -> Canvas:
    """The initialised field: exact for pixels, fitted for hash grids.

    Args:
        image: the image of ``init=image``, in [0, 1] and of the prior's size.
    """
    target = initial_values(config, prior, seed, image)
    if config.field in (FieldKind.epl, FieldKind.rgb):
        return Canvas(Pixels(target), prior, config.field)
    grid = HashGrid(config.grid, target.shape[1], target.shape[-1], generator(seed, 0, "playground grid"))
    canvas = Canvas(grid, prior, config.field)
    if config.init is Init.zero:
        with torch.no_grad():
            for parameter in canvas.parameters:
                parameter.zero_()
    else:
        fit(canvas, target)
    return canvas


@torch.no_grad()
def initial_values(
    config: PlaygroundConfig, prior: Prior, seed: int, image: Float[Tensor, "1 H W 3"] | None
) -> Float[Tensor, "1 c S S"]:
    """The values that ``config.init`` describes: latents, or colours in [0, 1]."""
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
        image = prior.decode_latents(normal(channels, prior.latent_size))
    elif config.init is Init.grey:
        image = torch.full((1, size, size, 3), GREY, device=prior.device)
    if image is None:
        raise ValueError("init=image needs the image")
    image = image.to(prior.device)
    return prior.encode_images(image) if latent else image.permute(0, 3, 1, 2).contiguous()


def fit(canvas: Canvas, target: Float[Tensor, "1 c S S"]) -> None:
    """Fit a hash grid to ``target`` by least squares."""
    optimizer = torch.optim.Adam(canvas.parameters, FIT_RATE, eps=1e-15)
    enough = FIT_ERROR * float(target.square().mean())
    for _ in range(FIT_STEPS):
        error = (canvas.raw() - target).square().mean()
        if float(error.detach()) <= enough:
            return
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
