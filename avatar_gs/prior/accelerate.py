"""Functions of tensors that are compiled, or captured as CUDA graphs, once calls of the same shapes recur.

Whatever goes wrong then, or answers differently, costs a line in the log and not the run: the function goes on as it
was. The first such call is made both ways, with its backward pass, and compared.
"""

import inspect
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avatar_gs.prior.config import Compile

LOGGER = logging.getLogger(__name__)

AFTER = 3
"""Calls of the same shapes before they are worth it."""
SHAPES = 6
"""Most shapes of one function; others stay as they are."""
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""By the type that is computed in: how far, relative to its norm, an answer may be from the ordinary one (float32 is
TF32 on a GPU where 16 bits are used elsewhere)."""

SMALL = 150_000_000
"""Parameters of UNet and ControlNet below which launching kernels takes longer than computing them."""
PREDICTIONS = 6
"""What a step costs in predictions without gradients of as many images: by its arithmetic, with DE-SDS and the VAE."""
COMPILE_SECONDS, SAVED = 240.0, 0.25
"""What ``auto`` takes torch.compile to cost, and to save of the networks' time. Assumptions: elsewhere Stable Diffusion
1.5 with ControlNet has been seen at 72 TFLOP/s as it is and at 108 compiled (A100)."""

CAPTURE = "thread_local"
"""While a graph is captured, the thread that prepares the next scene may go on using the GPU."""

Arguments = tuple[Tensor | None, ...]
Function = Callable[..., Tensor]
Make = Callable[[Function, Arguments], Function]


class Disagreement(Exception):
    """An answer or a gradient is not what the ordinary function gives."""


class Accelerated:
    """Calls ``function``; from the ``AFTER``-th call of the same shapes on as ``make`` has it.

    Args:
        function: of tensors and Nones by position, to one tensor.
        make: the faster function of ``function`` and the arguments that it is for (``compiled``, ``captured``).
        dtype: what the function computes in.
        name: for the log.
        with_gradients: also those calls that a backward pass may follow.
    """

    def __init__(
        self, function: Function, make: Make, dtype: torch.dtype, name: str, *, with_gradients: bool = True
    ) -> None:
        self.function, self.dtype, self.name, self.with_gradients = function, dtype, name, with_gradients
        self.make: Make | None = make
        self._calls: dict[Any, int] = {}
        self._faster: dict[Any, Function] = {}

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        if self.make is None or (not self.with_gradients and _learns(arguments)):
            return self.function(*arguments)
        key = _key(arguments)
        if key in self._faster:
            try:
                return self._faster[key](*arguments)
            except torch.OutOfMemoryError:  # of no compiler's making
                raise
            except Exception as error:
                self._give_up(error)
                return self.function(*arguments)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] < AFTER or len(self._faster) == SHAPES:
            return self.function(*arguments)
        began, faster = time.perf_counter(), self.function
        try:
            faster = self.make(self.function, arguments)
            self._compare(faster, arguments)
        except Exception as error:  # any: compilers, drivers and graphs fail in many ways, and none may end the run
            self._give_up(error)
            faster = self.function
        else:
            self._faster[key] = faster
            images = next((len(argument) for argument in arguments if argument is not None), 0)
            LOGGER.info("%s, %d images: made faster in %.0f s", self.name, images, time.perf_counter() - began)
        return faster(*arguments)

    def _give_up(self, error: Exception) -> None:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        LOGGER.warning("%s cannot be made faster here (%s: %s)", self.name, type(error).__name__, reason)
        self.make = None
        self._faster.clear()

    def _compare(self, faster: Function, arguments: Arguments) -> None:
        """Raises Disagreement unless both give the same, and the same gradients."""
        expected, found = (_answer(function, arguments) for function in (self.function, faster))
        for one, other in zip(expected, found, strict=True):
            difference, size = (one - other).float().norm(), one.float().norm()
            if not bool(difference <= TOLERANCES[self.dtype] * size):  # not so either where it is no number
                raise Disagreement(f"its answers are {float(difference / size):.1e} of their norm away")


def compiled(function: Function, arguments: Arguments) -> Function:
    """By torch.compile, for these shapes. As of an ordinary function, a second backward pass may follow the first."""
    from torch._functorch import config  # takes a second

    if hasattr(config, "donated_buffer"):  # torch 2.6 and later: the first pass would overwrite what the second needs
        config.donated_buffer = False
    return torch.compile(function, dynamic=False)


def captured(function: Function, arguments: Arguments) -> Function:
    """As a CUDA graph, which holds its own memory. With gradients, one backward pass follows each call; a call that
    comes before it, or before its graph is gone, is made as usual.

    Raises:
        RuntimeError: on a device without CUDA, or for what cannot be captured.
    """
    if not all(argument is None or argument.is_cuda for argument in arguments):
        raise RuntimeError("CUDA graphs need a GPU")
    if _learns(arguments):
        return _CapturedWithGradients(function, arguments)
    return _Captured(function, arguments)


class _Captured:
    """Without gradients: inputs are copied in, the graph is replayed, its output is copied out."""

    def __init__(self, function: Function, arguments: Arguments) -> None:
        self.inputs = tuple(None if argument is None else argument.detach().clone() for argument in arguments)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(2):  # kernels are chosen, and workspaces made, before anything is recorded
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph, capture_error_mode=CAPTURE):
            self.output = function(*self.inputs)

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        for held, argument in zip(self.inputs, arguments, strict=True):
            if held is not None and argument is not None:
                held.copy_(argument)
        self.graph.replay()
        return self.output.clone()


class _CapturedWithGradients:
    """What the forward pass keeps lies in the graph's own memory, which the next call overwrites."""

    def __init__(self, function: Function, arguments: Arguments) -> None:
        self.function = function
        given = [argument for argument in arguments if argument is not None]
        places = [index for index, argument in enumerate(arguments) if argument is not None]

        def of_given(*tensors: Tensor) -> Tensor:
            full: list[Tensor | None] = [None] * len(arguments)
            for place, tensor in zip(places, tensors, strict=True):
                full[place] = tensor
            return function(*full)

        graphed: Any = torch.cuda.make_graphed_callables  # pyright: ignore[reportAttributeAccessIssue]
        if "capture_error_mode" not in inspect.signature(graphed).parameters:
            raise RuntimeError("this version of torch captures backward passes only while no other thread uses the GPU")
        samples = tuple(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in given)
        self.graphed: Function = graphed(of_given, samples, capture_error_mode=CAPTURE)
        self.use = OneAtATime()

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        if self.use.busy():
            return self.function(*arguments)
        return self.use.watch(self.graphed(*(argument for argument in arguments if argument is not None)).clone())


class OneAtATime:
    """Whether a backward pass through the last watched tensor may still come."""

    def __init__(self) -> None:
        self._waiting: weakref.ref[_Waiting] | None = None

    def busy(self) -> bool:
        """Until that pass has been made, or its graph is gone."""
        waiting = None if self._waiting is None else self._waiting()
        return waiting is not None and not waiting.done

    def watch(self, output: Tensor) -> Tensor:
        """``output``, to be used in its place."""
        waiting = _Waiting()
        self._waiting = weakref.ref(waiting)
        return _Watched.apply(output, waiting)  # pyright: ignore[reportReturnType]


class _Waiting:
    done = False


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, waiting: _Waiting) -> Tensor:
        ctx.waiting = waiting  # lives as long as the graph
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.waiting.done = True  # the graphed pass comes right after, before anybody else calls
        return gradients[0], None


def choose(parameters: int, seconds: float, steps: int) -> Compile:
    """What pays within a run on a GPU.

    Args:
        parameters: of UNet and ControlNet.
        seconds: of a prediction for each image of a step.
        steps: of the run.
    """
    if parameters < SMALL:
        return Compile.graphs
    return Compile.always if SAVED * PREDICTIONS * seconds * steps > COMPILE_SECONDS else Compile.never


def _learns(arguments: Arguments) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(argument is not None and argument.requires_grad for argument in arguments)


def _key(arguments: Arguments) -> Any:
    """What must be the same for a compiled or captured function."""
    gradients = torch.is_grad_enabled()
    shapes = tuple(
        None
        if argument is None
        else (argument.shape, argument.stride(), argument.dtype, gradients and argument.requires_grad)
        for argument in arguments
    )
    return gradients, shapes


def _answer(function: Function, arguments: Arguments) -> list[Tensor]:
    """The output, and the gradients of what asks for them, by one and the same cotangent."""
    own = [
        None if argument is None else argument.detach().requires_grad_(argument.requires_grad) for argument in arguments
    ]
    output = function(*own)
    learning: Sequence[Tensor] = [argument for argument in own if argument is not None and argument.requires_grad]
    if not (torch.is_grad_enabled() and learning):
        return [output.detach()]
    cotangent = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, learning, cotangent, allow_unused=True)
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]
