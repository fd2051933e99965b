"""One run on several processes (``torchrun``).

All processes take the same steps with the same avatar. The prior's networks, by far the largest part of a step, are
split by rows of the batch: each process computes some, and results and gradients are gathered. Rasterisers on a GPU add
in no fixed order, so the gradients of splats and screen positions are averaged; the first process decides which splats
grow and are pruned, and the others then copy its splats, so that avatars never diverge. Without torchrun, all of this
does nothing.
"""

import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist

from avatar_gs.core.console import silence
from avatar_gs.core.errors import UserError
from avatar_gs.protocols import Prior
from avatar_gs.training.rendering import encoder_at

PATIENCE = datetime.timedelta(hours=24)
"""How long processes wait for each other: loading may take long, and torchrun reports processes that end."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes of this run until the block ends; only the first one logs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    if not is_first():
        silence()
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait() -> None:
    """Wait until all processes get here."""
    if count() > 1:
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in the first process while the others wait, then in these."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process."""
    if count() == 1:
        return flag
    found = torch.tensor(float(flag), device=device)
    dist.all_reduce(found)
    return bool(found > 0)


@torch.no_grad()
def average(gradients: Iterable[Tensor | None]) -> None:
    """Replace each tensor by its mean over the processes; all give the same tensors in the same order."""
    if count() == 1:
        return
    for gradient in gradients:
        if gradient is not None:
            whole = gradient.contiguous()
            dist.all_reduce(whole)
            gradient.copy_(whole / count())


@torch.no_grad()
def from_first(tensor: Tensor) -> Tensor:
    """The first process's values of a tensor; it has the same shape and type in all."""
    if count() == 1:
        return tensor
    # gloo does not send booleans.
    values = tensor.detach().to(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype, copy=True).contiguous()
    dist.broadcast(values, 0)
    return values.to(tensor.dtype)


@torch.no_grad()
def follow_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the first process's; all give the same ones in the same order."""
    if count() > 1:
        for tensor in tensors:
            tensor.copy_(from_first(tensor))


def require_same(device: torch.device, **values: int) -> None:
    """Raise UserError in every process unless all have the same values; otherwise some would wait forever."""
    if count() == 1:
        return
    found = torch.tensor([*values.values(), *(-value for value in values.values())], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    largest, negated = found.view(2, -1).tolist()
    for name, most, least in zip(values, largest, negated, strict=True):
        if most != -least:
            raise UserError(
                f"torchrun: its processes have from {-least} to {most} {name}, expected the same in all; they must see "
                "the same files (outputs/ on a disk that all machines share) and run the same versions"
            )


class SharedPrior:
    """A prior with an encoder, UNet and ControlNet that are split over the processes by rows of the batch.

    Implements ``protocols.Prior``, and is differentiable as the prior is.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.name, self.device, self.calls = prior.name, prior.device, prior.calls
        self.image_size, self.token_length = prior.image_size, prior.token_length
        self.latent_size, self.latent_channels = prior.latent_size, prior.latent_channels
        self.num_timesteps = prior.num_timesteps

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B L d"]:
        return self.prior.encode_prompts(prompts)

    def decode_latents(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B H W 3"]:
        return self.prior.decode_latents(latents)

    def alpha(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.prior.alpha(t)

    def sigma(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.prior.sigma(t)

    def encode_images(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        return _by_rows(self.prior.encode_images, images)

    def encoder_at(self, progress: float) -> Callable[[Tensor], Tensor]:
        return partial(_by_rows, encoder_at(self.prior, progress))

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        self.calls += len(z_t)  # of all processes together
        return _by_rows(self.prior.eps, z_t, t, cond, control)


def own_rows(rows: int) -> tuple[int, int]:
    """First row of this process, and the row after its last."""
    each, more = divmod(rows, count())
    rank = dist.get_rank()
    begin = rank * each + min(rank, more)
    return begin, begin + each + (rank < more)


def _by_rows(function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """``function`` of all rows. Fewer rows than processes are computed by all, since none may be without."""
    rows = len(inputs[0]) if inputs[0] is not None else 0
    if rows < count() or count() == 1:
        return function(*inputs)
    begin, end = own_rows(rows)
    parts = [None if value is None else _Everywhere.apply(value)[begin:end] for value in inputs]
    return _Together.apply(function(*parts), begin, rows)  # pyright: ignore[reportReturnType]


class _Everywhere(torch.autograd.Function):
    """The same value in all processes; each uses some rows, so gradients are summed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole


class _Together(torch.autograd.Function):
    """Rows of all processes gathered in one tensor, with the same gradient in all."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, begin: int, count: int) -> Tensor:
        ctx.rows = slice(begin, begin + len(rows))
        whole = rows.new_zeros(count, *rows.shape[1:])
        whole[ctx.rows] = rows
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0][ctx.rows], None, None
