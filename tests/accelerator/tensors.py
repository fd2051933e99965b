"""Tensors that report ``cuda:0`` as their device and compute on the CPU.

``OnDevice`` is a wrapper subclass that holds a CPU tensor. To torch's C++ code its device is ``meta``, which the
autograd engine supports everywhere; to Python it is ``cuda:0``. A torch function mode (``FunctionMode``) translates
``cuda`` in calls into ``meta``, and a dispatch mode (``DispatchMode``) computes each operation on the held tensors
after checking their devices. So no tensor may be on ``meta`` meanwhile: call diffusers' ``from_pretrained`` before.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
INSIDE = torch.device("meta")
"""The accelerator's device in torch's C++ code."""

TAKES_SCALARS = frozenset(
    (
        *("add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "atan2"),
        *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "maximum", "minimum"),
        *("bitwise_and", "bitwise_or", "bitwise_xor", "fmax", "fmin", "copysign", "hypot", "clamp_min", "clamp_max"),
        *("where", "masked_fill", "fill", "index_fill", "xlogy"),
        *("_foreach_add", "_foreach_sub", "_foreach_mul", "_foreach_div"),
    )
)
"""Operations whose CUDA kernels accept 0-dimensional CPU tensors: those built with
``TensorIteratorConfig::allow_cpu_scalars`` in all supported versions of torch, and a few with their own checks; not
``clamp`` with two bounds, ``lerp``, ``addcmul`` and ``addcdiv``."""
WAITS = frozenset(
    (
        *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_linalg_check_errors"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    )
)
"""Operations whose result or shape the host must read."""
CHANGES_SHAPE = frozenset(("t_", "transpose_", "squeeze_", "unsqueeze_", "as_strided_"))
NO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."


on_wait: Callable[[str], None] | None = None
"""Called with the name of every operation that makes the host wait."""


def wait(operation: str) -> None:
    if on_wait is not None:
        on_wait(operation)


class OnDevice(torch.Tensor):
    """A tensor on the accelerator; ``held`` has its values on the CPU."""

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
        wait("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            wait("numpy")
            return self.held.numpy()
        raise TypeError(NO_NUMPY)

    def __array__(self, dtype: Any = None) -> Any:
        raise TypeError(NO_NUMPY)

    def data_ptr(self) -> int:
        return self.held.data_ptr()


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def on_device(value: Any) -> bool:
    """Whether a tensor is on the accelerator."""
    return isinstance(value, OnDevice)


# ---- Python calls: translate ``cuda`` into ``INSIDE``


def _inside(value: Any) -> Any:
    if isinstance(value, torch.device):
        return INSIDE if value.type == "cuda" else value
    if isinstance(value, str) and value.split(":")[0] == "cuda":
        return INSIDE
    return value


_SET_DATA: Any = getattr(torch.Tensor.data, "__set__")  # noqa: B009 (pyright does not know the descriptor)


def _index(value: Any) -> Any:
    """Convert sequences to tensors, since those that C++ makes for a meta tensor have no values."""
    if isinstance(value, tuple):
        return tuple(_index(item) for item in value)
    if isinstance(value, list | range | np.ndarray):
        return torch.as_tensor(np.asarray(value))
    return value


class FunctionMode(TorchFunctionMode):
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


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Operation:
    """An operation's schema, parsed once."""

    def __init__(self, func: Any) -> None:
        schema = func._schema
        self.name = schema.name.split("::")[1]
        self.written: dict[str, tuple[int, str]] = {}
        """Position and name of the arguments that it writes to, by alias set."""
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written |= dict.fromkeys(argument.alias_info.before_set, (position, argument.name))
        self.returns: list[str | None] = []
        """The alias set of each result that is an argument; None for new tensors."""
        for returned in schema.returns:
            alias = returned.alias_info
            self.returns.append(next(iter(alias.before_set)) if alias is not None and alias.is_write else None)
        plain = self.name.removeprefix("__i").removeprefix("__").rstrip("_")
        self.takes_scalars = plain in TAKES_SCALARS

    def values(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments that are written to, by alias set."""
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
    if kwargs.get("pin_memory"):  # needs a CUDA driver
        kwargs = kwargs | {"pin_memory": False}
    if not here and not target:
        return func(*args, **kwargs)
    operation = _operation(func)
    name = operation.name
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if name in CHANGES_SHAPE:  # of the C++ tensor, too
        func(args[0].held, *args[1:], **kwargs)
        with torch._C._DisableTorchDispatch():
            return func(*args, **kwargs)
    if name in ("_to_copy", "copy_"):
        into, source = (tensors[0], tensors[-1]) if name == "copy_" else (None, tensors[0])
        ahead = getattr(source, "pinned", False) and (kwargs.get("non_blocking") or True in args[2:])
        if on_device(source) != (target if into is None else on_device(into)) and not ahead:
            wait("from the device" if on_device(source) else "to the device")
    elif name == "_fused_sdp_choice":
        return 0  # attention as plain operations; fused ones depend on the device
    else:
        _check(func, operation, args, kwargs, tensors, target)
    result = func(*held_values(args), **{key: held_values(value) for key, value in kwargs.items()})
    if not target:
        return result
    written = operation.values(args, kwargs)
    results = result if len(operation.returns) > 1 else (result,)
    found = [written[m] if m in written else _wrapped(r) for r, m in zip(results, operation.returns, strict=False)]
    return tuple(found) if len(operation.returns) > 1 else (found[0] if found else result)


def _collect(value: Any, tensors: list[Tensor]) -> None:
    """Collect the tensors of nested arguments."""
    for item in value:
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, list | tuple) or type(item) is _VALUES:
            _collect(item, tensors)


_VALUES = type({}.values())


def held_values(value: Any) -> Any:
    """The value with every ``OnDevice`` replaced by its CPU tensor."""
    if type(value) is OnDevice:
        return value.held
    return type(value)(map(held_values, value)) if type(value) in (list, tuple) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return OnDevice(value)
    return type(value)(map(_wrapped, value)) if type(value) in (list, tuple) else value


def _check(
    func: Any, operation: _Operation, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], target: bool
) -> None:
    """Raise RuntimeError where a CUDA device would, and report where the host waits."""
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
            wait(name)
        tensors, scalars = [args[0], *(args[2:3] if "put" in name else [])], "put" in name
    if name in WAITS:
        wait(name)
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
