"""``stage=benchmark``: times the renderer, forward and backward, beside the dense reference."""

from typing import Any

import torch

from avatar_gs.device import choose_device
from avatar_gs.render.benchmark import time_renderers
from avatar_gs.settings import Settings

HEADER = (
    f"{'splats, px':>16}  {'renderer':<11}  {'min / median ms':>17}  {'forward':>8}  {'backward':>8}  {'CPU ms':>8}"
)


def run(settings: Settings) -> list[dict[str, Any]]:
    """Prints the table while it is measured; returns its rows (see ``time_renderers``)."""
    device = choose_device(settings.device.value)
    print(f"RGB, alpha and depth with gradients on {device}, {torch.get_num_threads()} threads, seed {settings.seed}")
    print(HEADER)
    rows = []
    for row in time_renderers(settings.benchmark, settings.seed, device):
        print(format_row(row), flush=True)
        rows.append(row)
    if device == "cpu":
        limit = settings.benchmark.dense_limit
        print(f"The dense reference keeps every splat at every pixel: timed up to {limit:,} of them only.")
    return rows


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    size = f"{row['splats']:,}, {row['pixels']}²"
    times = f"{row['wall_min']:.1f} / {row['wall_median']:.1f}"
    return (
        f"{size:>16}  {row['renderer']:<11}  {times:>17}  {row['forward_min']:>8.1f}  {row['backward_min']:>8.1f}"
        f"  {row['cpu_min']:>8.1f}"
    )
