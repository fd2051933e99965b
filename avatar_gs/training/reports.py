"""What a run reports: preview sheets, TensorBoard scalars and its final metrics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.device import peak_resident_memory
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage, to_uint8
from avatar_gs.core.runs import RunFolder
from avatar_gs.protocols import Prior
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.rendering import render_scene
from avatar_gs.training.scene import Scene
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import Report
from avatar_gs.types import Render

GAP = 8
"""Pixels between the two halves of a preview sheet."""
WriteScalars = Callable[[int, Mapping[str, float]], None]


@torch.no_grad()
def preview_sheet(model: GaussianModel, fixed: Scene, scene: Scene, report: Report, prior: Prior) -> RGBImage:
    """RGB, alpha and pose maps of fixed views (left) and of the step's views (right).

    Below the step's views: the clean images of the guided prediction (ẑ0, decoded).
    """
    size = prior.image_size
    predicted = prior.decode_latents(report.distilled.z0_hat)
    left = _rows(render_scene(model, fixed), fixed, size)
    right = [*_rows(report.render, scene, size), _row(predicted, size)]
    blocks = [_stack(left, len(right), size), torch.ones(len(right) * size, GAP, 3), _stack(right, len(right), size)]
    return to_uint8(torch.cat(blocks, 1))


@contextmanager
def scalar_writer(run: RunFolder | None, enabled: bool, first_step: int) -> Iterator[WriteScalars]:
    """A function that writes a step's scalars to TensorBoard; it does nothing unless ``enabled`` and ``run`` is given.

    Raises:
        UserError: if TensorBoard is not installed.
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
    # Scalars that an interrupted run wrote after its last checkpoint will be written again.
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def write(step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        writer.close()


def metrics(state: TrainingState, prior: Prior) -> dict[str, Any]:
    """A run's metrics: seconds per step by part, splats, prior calls, skipped steps, peak memory."""
    state.seconds.settle()
    steps = max(state.step, 1)
    per_step = {part: round(seconds / steps, 5) for part, seconds in state.seconds.items()}
    return {
        "steps": state.step,
        "splats": len(state.model),
        "seconds_per_step": per_step | {"total": round(sum(state.seconds.values()) / steps, 5)},
        "prior_calls": state.prior_calls,
        "skipped_steps": state.bad_steps,
        "peak_memory_mib": peak_memory_mib(prior.device),
    }


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """The largest resident size of this process so far, and of its tensors on the GPU, in MiB."""
    peak = {"host": round(peak_resident_memory() / 2**20, 1)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peak


def _rows(render: Render, scene: Scene, size: int) -> list[Float[Tensor, "S R 3"]]:
    return [_row(render.rgb, size), _row(render.alpha.expand(-1, -1, -1, 3), size), _row(scene.pose_maps, size)]


def _row(images: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "S R 3"]:
    """Images side by side, each averaged to ``size``."""
    scaled = torch.nn.functional.interpolate(images.float().permute(0, 3, 1, 2), (size, size), mode="area")
    return torch.cat(list(scaled.permute(0, 2, 3, 1).cpu()), 1)


def _stack(rows: list[Float[Tensor, "S R 3"]], count: int, size: int) -> Float[Tensor, "H W 3"]:
    """Rows below each other, padded with white rows to ``count``."""
    blank = torch.ones(size, rows[0].shape[1], 3)
    return torch.cat([*rows, *[blank] * (count - len(rows))])
