"""A multiresolution hash grid (Müller et al. 2022, Instant-NGP) over the pixels of one square picture."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatar_gs.lab.playground.config import GridConfig

PRIME = 2654435761
"""Of the spatial hash (x is taken as it is)."""
TABLE_RANGE = 1e-4
"""Entries begin uniform within ± this."""


class HashGrid(nn.Module):
    """Corners' features, interpolated at the pixel centres of every level, and an MLP without biases on top.

    The corners of the finest level are the pixel centres themselves, so that it can hold any picture.
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
        """The picture at all of its pixels."""
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
    """The table entries of the four corners around each pixel centre, and their bilinear weights.

    Corners lie at the cells' centres; beyond the outermost ones the outermost count.
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
    """He's normal initialisation, for a layer that is followed or preceded by ReLU."""
    return torch.randn(rows, columns, generator=generator) * (2 / columns) ** 0.5
