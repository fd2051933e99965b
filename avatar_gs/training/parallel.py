"""One run on several processes (``torchrun``), each with a share of every step's views.

All processes take the same steps with the same avatar. Of what a step asks of the prior, by far its largest part, each
process computes some rows; answers are put together, and so are the gradients on their way back. Rasterisers on a GPU
add in no fixed order, so the avatar's gradients and those of its screen positions are averaged; the first process
decides which splats grow and go, and the others take over its splats then, so that avatars never drift apart. Without
torchrun all of this does nothing.
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
"""How long processes wait for each other: loading may take long, and an end is never silent under torchrun."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes of this run until the block ends; only the first has something to say."""
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
    """Goes on once all processes are here."""
    if count() > 1:
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process runs the block while the others wait, then they run it."""
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
    """Replaces each tensor by its mean over the processes, which all give the same tensors in the same order."""
    if count() == 1:
        return
    for gradient in gradients:
        if gradient is not None:
            whole = gradient.contiguous()
            dist.all_reduce(whole)
            gradient.copy_(whole / count())


@torch.no_grad()
def from_first(tensor: Tensor) -> Tensor:
    """The first process's values of a tensor that has one shape and type in all."""
    if count() == 1:
        return tensor
    # gloo does not send booleans
    values = tensor.detach().to(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype, copy=True).contiguous()
    dist.broadcast(values, 0)
    return values.to(tensor.dtype)


@torch.no_grad()
def follow_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites tensors with the first process's; all give the same ones in the same order."""
    if count() > 1:
        for tensor in tensors:
            tensor.copy_(from_first(tensor))


def require_same(device: torch.device, **values: int) -> None:
    """Raises UserError in every process unless all have the same values; else some would wait for others forever."""
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
    """A prior whose encoder, UNet and ControlNet are computed in shares, a process some rows each; all else is its own.
    Implements ``protocols.Prior``, differentiable as the prior is."""

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
        return _in_shares(self.prior.encode_images, images)

    def encoder_at(self, progress: float) -> Callable[[Tensor], Tensor]:
        return partial(_in_shares, encoder_at(self.prior, progress))

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        self.calls += len(z_t)  # of all processes together
        return _in_shares(self.prior.eps, z_t, t, cond, control)


def share(rows: int) -> tuple[int, int]:
    """Where this process's rows begin and end."""
    each, more = divmod(rows, count())
    rank = dist.get_rank()
    begin = rank * each + min(rank, more)
    return begin, begin + each + (rank < more)


def _in_shares(function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """``function`` of rows, put together. Fewer rows than processes are computed by all: no process may be without."""
    rows = len(inputs[0]) if inputs[0] is not None else 0
    if rows < count() or count() == 1:
        return function(*inputs)
    begin, end = share(rows)
    parts = [None if value is None else _Everywhere.apply(value)[begin:end] for value in inputs]
    return _Together.apply(function(*parts), begin, rows)  # pyright: ignore[reportReturnType]


class _Everywhere(torch.autograd.Function):
    """The same value in all processes, of which each uses some rows: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole


class _Together(torch.autograd.Function):
    """Rows of all processes in one tensor, whose gradient they all know."""

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
