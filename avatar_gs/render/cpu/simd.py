"""Explicit SIMD for numba: vectors of 8 and 16 floats with the usual operators.

LLVM does not vectorise the blending loop by itself (78 ms instead of 5 on the reference scene), so vectors are numba
types here: `VectorType` lowers to LLVM's ``<n x float>`` and `MaskType` to ``<n x i1>``, which LLVM maps to the
machine's instructions (AVX-512, AVX2, SSE2, NEON). This is the only module that uses numba's internals and llvmlite;
`check` runs every operation once and compares it with numpy before anything is rendered.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import NumbaError
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.render.cpu.runtime import FLOAT_FLAGS, kernel

_F32, _I32, _I64, _BIT = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(1)


class VectorType(types.Type):
    """``lanes`` 32-bit floats."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


class MaskType(types.Type):
    """``lanes`` booleans, the result of comparing two vectors."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"boolx{lanes}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        super().__init__(manager, numba_type, ir.VectorType(_F32, numba_type.lanes))


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: MaskType) -> None:
        super().__init__(manager, numba_type, ir.VectorType(_BIT, numba_type.lanes))


# ---- operators


def _define_operator(function: Callable, operands: type, result: Callable, emit: Callable) -> None:
    """Define an operator of numba code on operands of one SIMD type; ``emit(builder, *values)`` generates its code."""

    @infer_global(function)  # pyright: ignore[reportOptionalCall]
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if not kws and isinstance(args[0], operands) and all(arg == args[0] for arg in args):
                return signature(result(args[0]), *args)
            return None

    arity = 1 if function is operator.neg else 2

    @lower_builtin(function, *[operands] * arity)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)


def _same(operand: Any) -> Any:
    return operand


def _mask_of(vector: VectorType) -> MaskType:
    return MaskType(vector.lanes)


for _function, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(
        _function,
        VectorType,
        _same,
        lambda builder, x, y, _name=_name: getattr(builder, _name)(x, y, flags=FLOAT_FLAGS),
    )
for _function, _name in ((operator.ge, ">="), (operator.gt, ">"), (operator.le, "<="), (operator.lt, "<")):
    _define_operator(
        _function, VectorType, _mask_of, lambda builder, x, y, _name=_name: builder.fcmp_ordered(_name, x, y)
    )
_define_operator(operator.and_, MaskType, _same, lambda builder, x, y: builder.and_(x, y))
_define_operator(operator.neg, VectorType, _same, lambda builder, x: builder.fneg(x))


# ---- functions


def _operation(define: Callable) -> Any:
    """A function of kernels; ``define(typing_context, *types)`` returns its signature and its code generator."""
    return intrinsic(inspect.unwrap(define))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, element: ir.Type) -> Any:
    """Pointer to ``element`` at ``array.data + index`` (the array is C-contiguous, the index in elements)."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _loader(lanes: int) -> Any:
    vector = ir.VectorType(_F32, lanes)

    @_operation
    def load(typing_context: Any, array: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1], vector))
            value.align = 4
            return value

        return VectorType(lanes)(array, types.intp), emit

    return load


def _broadcaster(lanes: int) -> Any:
    @_operation
    def broadcast(typing_context: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            undefined = ir.Constant(ir.VectorType(_F32, lanes), ir.Undefined)
            first = builder.insert_element(undefined, args[0], ir.Constant(_I32, 0))
            return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))

        return VectorType(lanes)(types.float32), emit

    return broadcast


load8, load16 = _loader(8), _loader(16)
broadcast8, broadcast16 = _broadcaster(8), _broadcaster(16)


@_operation
def store(typing_context, array, index, vector):
    """Write all lanes to the flat float32 ``array`` at ``index`` (unaligned)."""

    def emit(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], args[2].type)
        builder.store(args[2], pointer).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@_operation
def block_columns(typing_context):
    """Pixel columns 0…7 of the 16 lanes of a block that is 8 pixels wide and 2 high."""

    def emit(context, builder, sig, args):
        return ir.Constant(ir.VectorType(_F32, 16), [float(lane % 8) for lane in range(16)])

    return VectorType(16)(), emit


@_operation
def block_rows(typing_context):
    """Pixel rows 0, 1 of the 16 lanes of a block that is 8 pixels wide and 2 high."""

    def emit(context, builder, sig, args):
        return ir.Constant(ir.VectorType(_F32, 16), [float(lane // 8) for lane in range(16)])

    return VectorType(16)(), emit


def _selector(comparison: str) -> Any:
    @_operation
    def choose(typing_context: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, *args), *args)

        return x(x, x), emit

    return choose


minimum, maximum = _selector("<"), _selector(">")


@_operation
def select(typing_context, mask, x, y):
    """``x`` where the mask is true, ``y`` elsewhere."""

    def emit(context, builder, sig, args):
        return builder.select(*args)

    return x(mask, x, x), emit


@_operation
def absolute(typing_context, x):
    def emit(context, builder, sig, args):
        vector = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.fabs.v{vector.count}f32"
        )
        return builder.call(function, args)

    return x(x), emit


@_operation
def any_lane(typing_context, mask):
    """Whether any lane of the mask is true."""

    def emit(context, builder, sig, args):
        bits = ir.IntType(sig.args[0].lanes)
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], bits), ir.Constant(bits, 0))

    return types.boolean(mask), emit


def _shuffled_sum(builder: Any, x: Any, y: Any, left: list[int], right: list[int]) -> Any:
    """Sum of two selections of lanes from the concatenation of ``x`` and ``y``."""
    indices = ir.VectorType(_I32, len(left))
    return builder.fadd(
        builder.shuffle_vector(x, y, ir.Constant(indices, left)),
        builder.shuffle_vector(x, y, ir.Constant(indices, right)),
        flags=FLOAT_FLAGS,
    )


@_operation
def sum_lanes(typing_context, vector):
    """The sum of all lanes, as a float."""

    def emit(context, builder, sig, args):
        value, count = args[0], sig.args[0].lanes
        while count > 1:
            half = count // 2
            undefined = ir.Constant(value.type, ir.Undefined)
            value = _shuffled_sum(builder, value, undefined, list(range(half)), list(range(half, count)))
            count = half
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return types.float32(vector), emit


@_operation
def sum_lanes_of_eight(typing_context, a, b, c, d, e, f, g, h):
    """The lane sums of eight 16-lane vectors, as one 8-lane vector: half the work of eight `sum_lanes`."""

    def emit(context, builder, sig, args):
        undefined = ir.Constant(ir.VectorType(_F32, 16), ir.Undefined)
        halves = [_shuffled_sum(builder, x, undefined, list(range(8)), list(range(8, 16))) for x in args]
        even, odd = [0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]
        pairs = [_shuffled_sum(builder, halves[i], halves[i + 1], even, odd) for i in (0, 2, 4, 6)]
        low, high = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
        quads = [_shuffled_sum(builder, pairs[i], pairs[i + 1], low, high) for i in (0, 2)]
        return _shuffled_sum(builder, quads[0], quads[1], [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])

    return VectorType(8)(*[a] * 8), emit


def _zero_counter(name: str) -> Any:
    @_operation
    def count(typing_context: Any, bits: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I64, [_I64, _BIT]), name)
            return builder.call(function, [args[0], ir.Constant(_BIT, 0)])

        return types.int64(types.uint64), emit

    return count


trailing_zeros, leading_zeros = _zero_counter("llvm.cttz.i64"), _zero_counter("llvm.ctlz.i64")


@_operation
def take_number(typing_context, counter):
    """Atomically increment ``counter[0]`` (int64) and return the previous value: threads take tiles with it."""

    def emit(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(_I64, 1), "monotonic")

    return types.int64(counter), emit


# ---- self-test


@kernel
def _exercise(a, b, bits, counter, out):
    """Apply every operation of this module to 16 floats; ``out`` is laid out as in `_expected`."""
    x, y = load16(a, 0), load16(b, 0)
    store(out, 0, x + y * (x - y) / y)
    store(out, 16, minimum(x, y) + block_columns())
    store(out, 32, maximum(x, y) + block_rows())
    store(out, 48, select((x >= y) & (x > -y), absolute(x), -y))
    store(out, 64, select((x <= y) & (x < broadcast16(np.float32(0))), x, y))
    store(out, 80, sum_lanes_of_eight(x, y, x + x, y + y, -x, -y, x * x, y * y))
    store(out, 88, load8(a, 4) * broadcast8(np.float32(3)))
    out[96] = sum_lanes(x)
    out[97] = 1.0 if any_lane(x > y) else 0.0
    out[98] = 1.0 if any_lane(x * x < y - y) else 0.0
    out[99] = trailing_zeros(bits)
    out[100] = leading_zeros(bits)
    out[101] = take_number(counter)
    out[102] = counter[0]


def _expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lanes = np.arange(16)
    return np.concatenate(
        [
            a + b * (a - b) / b,
            np.minimum(a, b) + lanes % 8,
            np.maximum(a, b) + lanes // 8,
            np.where((a >= b) & (a > -b), np.abs(a), -b),
            np.where((a <= b) & (a < 0), a, b),
            [v.sum() for v in (a, b, a + a, b + b, -a, -b, a * a, b * b)],
            3 * a[4:12],
            [a.sum(), 1, 0, 3, 60, 41, 42],
        ]
    )


@functools.cache
def check() -> None:
    """Run each SIMD operation once on this machine.

    Raises:
        UserError: if an operation does not compile or gives a wrong result on this machine.
    """
    a = np.linspace(-2, 3, 16, dtype=np.float32)
    b = np.cos(np.arange(16, dtype=np.float32) * 2 + 0.5)
    out = np.empty(103, np.float32)
    try:
        _exercise(a, b, np.uint64(8), np.array([41]), out)
        right = np.allclose(out, _expected(a, b), rtol=1e-5, atol=1e-5)
        problem = "gives wrong results"
    except (NumbaError, RuntimeError, NotImplementedError) as error:
        right, problem = False, f"does not compile ({first_line(error)})"
    if not right:
        raise UserError(
            f"device=cpu: the CPU renderer's SIMD code {problem} on this machine "
            f"(numba {numba.__version__}); expected a CPU that LLVM has vectors for; use device=cuda or other hardware"
        )
