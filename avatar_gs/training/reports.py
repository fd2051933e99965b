"""What a run reports: preview sheets, TensorBoard scalars and its final metrics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.core.runs import RunFolder
from avatar_gs.protocols import Prior
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.rendering import draw
from avatar_gs.training.scene import Scene
from avatar_gs.training.step import Report
from avatar_gs.types import Render

GAP = 8


@torch.no_grad()
def preview_sheet(
    model: GaussianModel, fixed: Scene, scene: Scene, report: Report, prior: Prior
) -> UInt8[Tensor, "H W 3"]:
    """Left, the avatar from fixed views: RGB, alpha and pose map. Right, the step's own views: the same, and below them
    the clean picture that the guided prediction implies (ẑ0, decoded)."""
    size = prior.image_size
    imagined = prior.decode_latents(report.distilled.z0_hat)
    left = _rows(draw(model, fixed), fixed, size)
    right = [*_rows(report.render, scene, size), _row(imagined, size)]
    blocks = [_stack(left, len(right), size), torch.ones(len(right) * size, GAP, 3), _stack(right, len(right), size)]
    return (torch.cat(blocks, 1).clamp(0, 1) * 255).round().byte()


def write_preview(path: Path, sheet: UInt8[Tensor, "H W 3"]) -> None:
    """Writes a PNG atomically."""
    with atomic_write(path) as temporary:
        Image.fromarray(sheet.numpy()).save(temporary)


def _rows(render: Render, scene: Scene, size: int) -> list[Float[Tensor, "S R 3"]]:
    return [_row(render.rgb, size), _row(render.alpha.expand(-1, -1, -1, 3), size), _row(scene.pose_maps, size)]


def _row(pictures: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "S R 3"]:
    """Pictures side by side, each averaged to ``size``."""
    scaled = torch.nn.functional.interpolate(pictures.float().permute(0, 3, 1, 2), (size, size), mode="area")
    return torch.cat(list(scaled.permute(0, 2, 3, 1).cpu()), 1)


def _stack(rows: list[Float[Tensor, "S R 3"]], count: int, size: int) -> Float[Tensor, "H W 3"]:
    """Rows below each other, filled up with white to ``count`` of them."""
    blank = torch.ones(size, rows[0].shape[1], 3)
    return torch.cat([*rows, *[blank] * (count - len(rows))])


WriteScalars = Callable[[int, Mapping[str, float]], None]


@contextmanager
def scalar_writer(run: RunFolder | None, enabled: bool, first_step: int) -> Iterator[WriteScalars]:
    """A function that writes a step's scalars; it does nothing unless ``enabled`` and there is a run's folder.

    Raises:
        UserError: if TensorBoard is asked for and not installed.
    """
    if run is None or not enabled:
        yield lambda step, scalars: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "optimize.tensorboard=true: TensorBoard is not installed; pip install tensorboard, or leave the option out"
        ) from error
    # scalars that an interrupted run wrote after its last checkpoint are about to be written again
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def write(step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        writer.close()
