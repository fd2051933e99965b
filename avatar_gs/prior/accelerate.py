"""Compile functions of tensors, or capture them as CUDA graphs, once calls of the same shapes recur.

The first such call is made both ways, with its backward pass, and compared. A failure or a different result is logged,
and the original function is used from then on.
"""

import inspect
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avatar_gs.core.errors import first_line
from avatar_gs.prior.config import Compile

LOGGER = logging.getLogger(__name__)

AFTER = 3
"""Calls of the same shapes before it is worthwhile."""
SHAPES = 6
"""Most shapes of one function; others use the original."""
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""By number format: largest distance from the original result, relative to its norm (float32 is TF32 on a GPU where
16 bits are used elsewhere)."""

SMALL = 150_000_000
"""Parameters of UNet and ControlNet below which launching kernels takes longer than running them."""
PREDICTIONS = 6
"""Cost of a step in predictions without gradients, by its arithmetic, with DE-SDS and the VAE."""
COMPILE_SECONDS, SAVED = 240.0, 0.25
"""Assumed cost of torch.compile, and the fraction of the networks' time that it saves (reported for an A100 and Stable
Diffusion 1.5 with ControlNet: 72 TFLOP/s, and 108 compiled)."""

CAPTURE = "thread_local"
"""Lets the thread that prepares the next scene use the GPU during a capture."""

Arguments = tuple[Tensor | None, ...]
Function = Callable[..., Tensor]
Make = Callable[[Function, Arguments], Function]


class Disagreement(Exception):
    """A result or a gradient differs from the original function's."""


class Accelerated:
    """A function that is replaced by ``make``'s from the ``AFTER``-th call of the same shapes on.

    Args:
        function: of tensors and Nones by position, to one tensor.
        make: returns a faster function for some arguments (``compiled``, ``captured``).
        dtype: number format of the function's arithmetic.
        name: for the log.
        with_gradients: whether calls that a backward pass may follow are replaced, too.
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
            except torch.OutOfMemoryError:  # not the compiler's fault
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
        except Exception as error:  # compilers, drivers and graphs fail in many ways, and none may end the run
            self._give_up(error)
            faster = self.function
        else:
            self._faster[key] = faster
            images = next((len(argument) for argument in arguments if argument is not None), 0)
            LOGGER.info("%s, %d images: made faster in %.0f s", self.name, images, time.perf_counter() - began)
        return faster(*arguments)

    def _give_up(self, error: Exception) -> None:
        reason = first_line(error)
        LOGGER.warning("%s cannot be made faster here (%s: %s)", self.name, type(error).__name__, reason)
        self.make = None
        self._faster.clear()

    def _compare(self, faster: Function, arguments: Arguments) -> None:
        """Raise Disagreement unless both have the same results and gradients."""
        expected, found = (_answer(function, arguments) for function in (self.function, faster))
        for one, other in zip(expected, found, strict=True):
            difference, size = (one - other).float().norm(), one.float().norm()
            if not bool(difference <= TOLERANCES[self.dtype] * size):  # also raises for NaN
                raise Disagreement(f"its answers are {float(difference / size):.1e} of their norm away")


def compiled(function: Function, arguments: Arguments) -> Function:
    """By torch.compile, for these shapes. A second backward pass may follow the first."""
    from torch._functorch import config  # takes a second

    if hasattr(config, "donated_buffer"):  # torch 2.6 on: the first backward pass would overwrite the second's inputs
        config.donated_buffer = False
    return torch.compile(function, dynamic=False)


def captured(function: Function, arguments: Arguments) -> Function:
    """As a CUDA graph, which holds its own memory. With gradients, one backward pass follows each call; a call
    before it uses the original function.

    Raises:
        RuntimeError: on a device without CUDA, or if the function cannot be captured.
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
            for _ in range(2):  # choose kernels and make workspaces before the capture
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
    """Tensors kept by the forward pass are in the graph's memory, which the next call overwrites."""

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
    """Tells whether a backward pass through the last watched tensor may still come."""

    def __init__(self) -> None:
        self._waiting: weakref.ref[_Waiting] | None = None

    def busy(self) -> bool:
        """True until that pass is done, or its graph is gone."""
        waiting = None if self._waiting is None else self._waiting()
        return waiting is not None and not waiting.done

    def watch(self, output: Tensor) -> Tensor:
        """Returns a tensor to be used in place of ``output``."""
        waiting = _Waiting()
        self._waiting = weakref.ref(waiting)
        return _Watched.apply(output, waiting)  # pyright: ignore[reportReturnType]


class _Waiting:
    done = False


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, waiting: _Waiting) -> Tensor:
        ctx.waiting = waiting  # lives as long as the autograd graph
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.waiting.done = True  # the captured backward pass runs right after this
        return gradients[0], None


def choose(parameters: int, seconds: float, steps: int) -> Compile:
    """The fastest choice for a run on a GPU.

    Args:
        parameters: number of parameters of UNet and ControlNet.
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
    """Properties of arguments that a compiled or captured function depends on."""
    gradients = torch.is_grad_enabled()
    shapes = tuple(
        None
        if argument is None
        else (argument.shape, argument.stride(), argument.dtype, gradients and argument.requires_grad)
        for argument in arguments
    )
    return gradients, shapes


def _answer(function: Function, arguments: Arguments) -> list[Tensor]:
    """The output, and the gradients of arguments that require them for a fixed cotangent."""
    leaves = [
        None if argument is None else argument.detach().requires_grad_(argument.requires_grad) for argument in arguments
    ]
    output = function(*leaves)
    learning: Sequence[Tensor] = [argument for argument in leaves if argument is not None and argument.requires_grad]
    if not (torch.is_grad_enabled() and learning):
        return [output.detach()]
    cotangent = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, learning, cotangent, allow_unused=True)
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]
