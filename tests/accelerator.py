"""An accelerator that any machine has: tensors that say they are on ``cuda`` and compute on the CPU.

It refuses what a CUDA device refuses: operands on two devices, a generator of the CPU, numpy. It also counts where a
CUDA device would make the host wait. Nothing of CUDA is needed, and values are real: whole training runs pass through.

    with Accelerator() as accelerator:
        prior = StableDiffusionPrior(parts, Compute(device=torch.device("cuda")))
        ...
        assert accelerator.waits["_local_scalar_dense"] == 1

How it works: ``OnDevice`` is a wrapper subclass that holds a CPU tensor. To torch's C++ code its device is ``meta``,
which the autograd engine knows everywhere; to Python it is ``cuda:0``. A torch function mode translates ``cuda`` in
calls into ``meta``, and a dispatch mode computes each operation on the held tensors, after it has checked their
devices. So nothing may be on ``meta`` meanwhile: diffusers' ``from_pretrained`` must be done with before.
"""

import functools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from avatar_gs.render.cpu import renderer
from avatar_gs.types import Cameras, Gaussians, Render

DEVICE = torch.device("cuda", 0)
INSIDE = torch.device("meta")
"""What torch's C++ code takes the accelerator for."""

TAKES_SCALARS = frozenset(
    (
        *("add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "atan2"),
        *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "maximum", "minimum"),
        *("bitwise_and", "bitwise_or", "bitwise_xor", "fmax", "fmin", "copysign", "hypot", "clamp_min", "clamp_max"),
        *("where", "masked_fill", "fill", "index_fill", "xlogy"),
        *("_foreach_add", "_foreach_sub", "_foreach_mul", "_foreach_div"),
    )
)
"""Operations whose CUDA kernels take 0-dimensional CPU tensors as operands: those that torch builds with
``TensorIteratorConfig::allow_cpu_scalars`` since the oldest version that we support, and a few that say so themselves.
``clamp`` with bounds for both sides, ``lerp``, ``addcmul`` and ``addcdiv`` are not among them."""
WAITS = frozenset(
    (
        *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_linalg_check_errors"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    )
)
"""Operations whose result, or its shape, the host must read."""
CHANGES_SHAPE = frozenset(("t_", "transpose_", "squeeze_", "unsqueeze_", "as_strided_"))
NO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."


class OnDevice(torch.Tensor):
    """A tensor of the accelerator; ``held`` has its values, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        return torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=INSIDE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    device = property(lambda self: DEVICE)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]
    is_meta = property(lambda self: False)  # pyright: ignore[reportAssignmentType]
    is_cpu = property(lambda self: False)  # pyright: ignore[reportAssignmentType]

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if _is_parameter(self) else copied
        return memo[id(self)]

    def tolist(self) -> Any:
        _wait("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            _wait("numpy")
            return self.held.numpy()
        raise TypeError(NO_NUMPY)

    def __array__(self, dtype: Any = None) -> Any:
        raise TypeError(NO_NUMPY)

    def data_ptr(self) -> int:
        return self.held.data_ptr()


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


class Accelerator:
    """While it is entered, ``cuda`` is a device. ``waits`` counts, by operation, where this thread had to wait for it.

    Splats are drawn by the CPU renderer; each call counts as one wait, as gsplat reads the number of intersections.
    ``torch.cuda`` itself still finds no device; of its functions, those that a run needs answer.
    """

    current: "Accelerator | None" = None

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self._paused = 0
        self._thread = threading.get_ident()
        self._stack = ExitStack()

    def __enter__(self) -> "Accelerator":
        assert Accelerator.current is None, "one accelerator at a time"
        Accelerator.current = self
        self._stack.callback(lambda: setattr(Accelerator, "current", None))
        memory = {name: lambda *arguments: 0 for name in ("max_memory_allocated", "max_memory_reserved")}
        replaced: dict[str, Any] = memory | {
            "synchronize": lambda *arguments: _wait("synchronize"),
            "Event": Event,
            "mem_get_info": lambda *arguments: (80 << 30, 80 << 30),
            "reset_peak_memory_stats": lambda *arguments: None,
            "empty_cache": lambda: None,
        }
        for name, function in replaced.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, function))
        self._stack.enter_context(mock.patch("avatar_gs.render.rasterize._render_with_gsplat", _render))
        self._stack.enter_context(mock.patch("avatar_gs.render.cpu.renderer._Blend", _BlendOnDevice))
        pool = partial(ThreadPoolExecutor, initializer=_enter_modes)
        self._stack.enter_context(mock.patch("avatar_gs.training.scene.ThreadPoolExecutor", pool))
        self._stack.enter_context(mock.patch("torch.autograd._engine_run_backward", _run_backward))
        self._stack.enter_context(_Python())
        self._stack.enter_context(_Dispatch())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Counts nothing meanwhile."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def wait(self, operation: str) -> None:
        if threading.get_ident() == self._thread and not self._paused:
            self.waits[operation] += 1


def on_device(value: Any) -> bool:
    """Whether a tensor is the accelerator's."""
    return isinstance(value, OnDevice)


class Event:
    """``torch.cuda.Event`` of an accelerator that has done everything at once."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _wait("synchronize")

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.time - self.time)


def _wait(operation: str) -> None:
    if Accelerator.current is not None:
        Accelerator.current.wait(operation)


def _enter_modes() -> None:
    """Modes belong to a thread."""
    _Python().__enter__()
    _Dispatch().__enter__()


def _run_backward(*arguments: Any, **options: Any) -> Any:
    """Torch switches the mode off within ``backward``, as within all of its functions that are written in Python; the
    backward passes that are written in Python, such as a checkpoint's, need it."""
    with _Python():
        return torch.autograd.graph._engine_run_backward(*arguments, **options)


# ---- Python's calls: ``cuda`` becomes what C++ takes the accelerator for


def _inside(value: Any) -> Any:
    if isinstance(value, torch.device):
        return INSIDE if value.type == "cuda" else value
    if isinstance(value, str) and value.split(":")[0] == "cuda":
        return INSIDE
    return value


_SET_DATA: Any = getattr(torch.Tensor.data, "__set__")  # noqa: B009 (what its descriptor has, pyright does not know)


def _index(value: Any) -> Any:
    """Sequences become tensors here: those that C++ makes of them for a meta tensor have no values."""
    if isinstance(value, tuple):
        return tuple(_index(item) for item in value)
    if isinstance(value, list | range | np.ndarray):
        return torch.as_tensor(np.asarray(value))
    return value


class _Python(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if func is torch.Tensor.cuda:
            return args[0].to(INSIDE)
        if func == _SET_DATA and on_device(args[0]) != on_device(args[1]):
            parameter = torch.nn.Parameter(args[1], args[0].requires_grad)
            return torch.utils.swap_tensors(args[0], parameter if _is_parameter(args[0]) else args[1])
        if name in ("__getitem__", "__setitem__") and on_device(args[0]):
            return func(args[0], _index(args[1]), *args[2:])
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            device = _inside(kwargs.pop("device", None))
            if func is torch.Tensor.new_tensor:
                device = device or (INSIDE if on_device(args[0]) else None)
                args = (args[0].held if on_device(args[0]) else args[0], *args[1:])
            made = func(*args, **kwargs)
            return made.to(INSIDE) if device == INSIDE else made
        if "device" in kwargs:
            kwargs["device"] = _inside(kwargs["device"])
        return func(*[_inside(value) for value in args], **kwargs)


# ---- torch's operations, below autograd


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Operation:
    """What the dispatcher knows of an operation, looked up once."""

    def __init__(self, func: Any) -> None:
        schema = func._schema
        self.name = schema.name.split("::")[1]
        self.written: dict[str, tuple[int, str]] = {}
        """Where the arguments stand that it writes to, by the name of their memory."""
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written |= dict.fromkeys(argument.alias_info.before_set, (position, argument.name))
        self.returns: list[str | None] = []
        """Of each result, the memory that it is, where that was an argument's."""
        for returned in schema.returns:
            alias = returned.alias_info
            self.returns.append(next(iter(alias.before_set)) if alias is not None and alias.is_write else None)
        plain = self.name.removeprefix("__i").removeprefix("__").rstrip("_")
        self.takes_scalars = plain in TAKES_SCALARS

    def values(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments that are written to."""
        return {
            memory: args[position] if position < len(args) else kwargs.get(name)
            for memory, (position, name) in self.written.items()
        }


_operation = functools.cache(_Operation)


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors: list[Tensor] = []
    _collect((args, kwargs.values()), tensors)
    here = any(type(tensor) is OnDevice for tensor in tensors)
    asked = kwargs.get("device")
    target = here if asked is None else asked.type == INSIDE.type
    if kwargs.get("pin_memory"):  # which only a CUDA driver can
        kwargs = kwargs | {"pin_memory": False}
    if not here and not target:
        return func(*args, **kwargs)
    operation = _operation(func)
    name = operation.name
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if name in CHANGES_SHAPE:  # of what C++ knows of the tensor, too
        func(args[0].held, *args[1:], **kwargs)
        with torch._C._DisableTorchDispatch():
            return func(*args, **kwargs)
    if name in ("_to_copy", "copy_"):
        into, source = (tensors[0], tensors[-1]) if name == "copy_" else (None, tensors[0])
        ahead = getattr(source, "pinned", False) and (kwargs.get("non_blocking") or True in args[2:])
        if on_device(source) != (target if into is None else on_device(into)) and not ahead:
            _wait("from the device" if on_device(source) else "to the device")
    elif name == "_fused_sdp_choice":
        return 0  # attention as plain operations; the fused ones differ from device to device
    else:
        _check(func, operation, args, kwargs, tensors, target)
    result = func(*_held(args), **{key: _held(value) for key, value in kwargs.items()})
    if not target:
        return result
    written = operation.values(args, kwargs)
    results = result if len(operation.returns) > 1 else (result,)
    found = [written[m] if m in written else _wrapped(r) for r, m in zip(results, operation.returns, strict=False)]
    return tuple(found) if len(operation.returns) > 1 else (found[0] if found else result)


def _collect(value: Any, tensors: list[Tensor]) -> None:
    """Gathers the tensors of nested arguments."""
    for item in value:
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, list | tuple) or type(item) is _VALUES:
            _collect(item, tensors)


_VALUES = type({}.values())


def _held(value: Any) -> Any:
    if type(value) is OnDevice:
        return value.held
    return type(value)(map(_held, value)) if type(value) in (list, tuple) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return OnDevice(value)
    return type(value)(map(_wrapped, value)) if type(value) in (list, tuple) else value


def _check(
    func: Any, operation: _Operation, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], target: bool
) -> None:
    """Raises RuntimeError where a CUDA device would, and counts where it makes the host wait."""
    name, scalars = operation.name, operation.takes_scalars
    if kwargs.get("generator") is not None and target:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
    if name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"):
        indices = [index for index in args[1] if index is not None]
        if not on_device(args[0]) and any(map(on_device, indices)):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({func})")
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        fills = "put" in name and len(masks) == len(indices) == 1 and args[2].numel() == 1
        if any(not on_device(index) for index in indices) or (masks and not fills):
            _wait(name)
        tensors, scalars = [args[0], *(args[2:3] if "put" in name else [])], "put" in name
    if name in WAITS:
        _wait(name)
    strangers = [tensor for tensor in tensors if not on_device(tensor)]
    if not strangers or len(strangers) == len(tensors):
        return
    written = list(operation.values(args, kwargs).values())
    for tensor in strangers:
        if tensor.dim() > 0 or not scalars or any(tensor is other for other in written):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({func}, a CPU tensor of shape {tuple(tensor.shape)})"
            )


# ---- drawing


class _Moved(torch.autograd.Function):
    """A tensor on the other device, and its gradient back on its own; the host does not wait."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.held.clone() if isinstance(value, OnDevice) else OnDevice(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        return gradient.held.clone() if isinstance(gradient, OnDevice) else OnDevice(gradient.clone())


def _moved(value: Any) -> Any:
    return _Moved.apply(value) if isinstance(value, Tensor) else value


class _BlendOnDevice:
    """The CPU renderer's ``_Blend``; within ``_render`` the screen positions pass over the accelerator on their way."""

    original = renderer._Blend
    here = threading.local()

    @classmethod
    def apply(cls, means2d: Tensor, *others: Any) -> Any:
        if getattr(cls.here, "screen", None) is None:
            return cls.original.apply(means2d, *others)
        cls.here.screen.append(_moved(means2d))
        return cls.original.apply(_moved(cls.here.screen[0]), *others)


def _render(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, far: float, absgrad: bool
) -> Render:
    """What gsplat would draw, by the CPU renderer; gradients pass through ``info["means2d"]`` as they do there."""
    operands = [*vars(gaussians).values(), cameras.T_camera_world, cameras.K, background]
    if not all(map(on_device, operands)):
        raise RuntimeError("Expected all tensors to be on the same device (gsplat's rasterization)")
    splats = Gaussians(*(_moved(value) for value in vars(gaussians).values()))
    views = replace(cameras, T_camera_world=_held(cameras.T_camera_world), K=_held(cameras.K))
    screen = _BlendOnDevice.here.screen = []
    try:
        render = renderer.render(splats, views, _moved(background), near, far, absgrad)
    finally:
        _BlendOnDevice.here.screen = None
    _wait("gsplat")
    info = {name: _moved(value) for name, value in render.info.items()} | {"means2d": screen[0]}
    return Render(_moved(render.rgb), _moved(render.alpha), _moved(render.depth), info)
