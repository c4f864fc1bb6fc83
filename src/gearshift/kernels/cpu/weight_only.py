"""Products with 8-bit and 4-bit weights on CPUs, for language models that decode one token at a time.

Such a model reads each weight once for each token, so its speed is that of the memory: the fewer bits, the faster. For
few rows of activations our own kernels (csrc/weight_only.cpp) widen the bits in registers; for many, or where those
cannot be compiled, tiles of the weight are made float and multiplied by torch. ATen has such kernels too: on AVX2 those
for float activations were several times slower than float weights, those for bfloat16 ones half as fast as these.

With 8-bit weights the activations stay as they are. With 4-bit ones the kernel for few rows rounds them to 8 bits in
the weight's groups, an error 20 dB and more below that of the weights.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from gearshift.kernels import ops
from gearshift.kernels.cpu.native import declare, native
from gearshift.quant.formats import grouped
from gearshift.quant.formats.grouped import Grouped
from gearshift.quant.formats.int8 import Quantized, dequantize
from gearshift.quant.rounding.least_squares import pack4

GROUPS = (128, 64, 32)  # that the kernel has
MULTIPLE = 64  # inputs that it takes at a time
FEW_ROWS = 64  # up to here the kernels were faster than unpacking and torch's float product
TILE = 1 << 20  # weights that are floats at a time
POINTER, LENGTH, FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
SIGNATURES = {
    "gearshift_matmul8": [POINTER] * 4 + [LENGTH] * 3 + [FLAG],
    "gearshift_matmul4": [POINTER] * 5 + [LENGTH] * 4 + [FLAG] * 2,
    "gearshift_unpack4": [POINTER] * 4 + [LENGTH] * 3 + [FLAG] * 2,
}

Packed = Grouped | Quantized


@functools.cache
def fitting_group(in_features: int, group: int) -> int | None:
    """The group itself if it divides the inputs, else the largest smaller one that does; None if there is none."""
    return max((g for g in GROUPS if g <= group and in_features % max(g, MULTIPLE) == 0), default=None)


def matmul8(x: torch.Tensor, packed: Quantized, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + bias with a symmetric int8 weight; gradients reach x and the bias.

    Args:
        x: [..., in] of any floating dtype, in which it is answered.
        packed: values int8 [out, in], no zero point.
        bias: [out] or None.
    """
    return _matmul(x, packed, bias)


def matmul4(x: torch.Tensor, packed: Grouped, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + bias with a 4-bit weight; x and bias as in `matmul8`."""
    return _matmul(x, packed, bias)


def unpack(packed: Packed, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The float weight [out, in] that the bits stand for."""
    if isinstance(packed, Quantized):
        return dequantize(packed, dtype)
    library = kernels() if packed.codes.device.type == "cpu" else None
    if library is None or not takes(packed):
        return grouped.dequantize(packed, dtype)
    weight = torch.empty(packed.codes.shape[0], packed.width, dtype=torch.float32, device="cpu")
    sizes = (packed.width, weight.shape[0], packed.group, _is_half(packed), torch.get_num_threads())
    library.gearshift_unpack4(*map(torch.Tensor.data_ptr, (*packed[:3], weight)), *sizes)
    return weight.to(dtype)


def reference(x: torch.Tensor, packed: Packed) -> torch.Tensor:
    """What the kernels for few rows compute, in plain torch with sums in float64."""
    if isinstance(packed, Quantized):
        return (F.linear(x.double(), packed.values.double()) * packed.scale.double()).to(x.dtype)
    groups = x.float().unflatten(-1, (-1, packed.group))
    step = (groups.abs().amax(-1, True) / 127).clamp_min(1e-30)
    rounded = ((groups / step).round() * step).flatten(-2)
    return F.linear(rounded.double(), grouped.dequantize(packed).double()).to(x.dtype)


def takes(packed: Packed) -> bool:
    """Whether the kernels are made for such a weight."""
    if isinstance(packed, Quantized):
        values, scale, zero_point = packed
        return zero_point is None and values.is_contiguous() and scale.is_contiguous() and values.numel() > 0
    codes, scale, zero, bits, group, width = packed
    dense = codes.is_contiguous() and scale.is_contiguous() and zero.is_contiguous()
    return dense and bits == 4 and fitting_group(width, group) == group and codes.numel() > 0


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Our own kernels, compiled if need be; None where they cannot be or answer wrongly (then see `problem`)."""
    library = native("weight_only").library
    if library is not None:
        declare(library, SIGNATURES)
        if not all(_close(_few_rows(library, x, packed), reference(x, packed)) for x, packed in _examples()):
            return None
    return library


def rounding(packed: Grouped, device: torch.device) -> str | None:
    """How the kernels round activations beside a 4-bit weight; None where other products take its place."""
    if device.type != "cpu" or not takes(packed) or kernels() is None:
        return None
    return f"to 8 bits, in groups of {packed.group}, for up to {FEW_ROWS} tokens at a time"


def problem() -> str | None:
    """Why our own kernels are not there, as a sentence; None if they are."""
    if kernels() is not None:
        return None
    return native("weight_only").problem or "The kernels that were compiled for this CPU do not answer right on it."


def _matmul(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    if ops.needs_operator(x, bias):
        zero = None if isinstance(packed, Quantized) else packed.zero
        return _linear_op(x, packed[0], packed.scale, zero, bias)
    return _product(x, packed, bias)


def _product(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    library = kernels() if x.device.type == "cpu" and rows.shape[0] and takes(packed) else None
    if library is None and isinstance(packed, Quantized):
        return ops.linear(x, packed, bias)
    few = library is not None and rows.shape[0] <= FEW_ROWS
    y = _few_rows(library, rows, packed) if few else _many_rows(rows, packed)  # type: ignore[arg-type]
    if bias is not None:
        y.add_(bias)
    y = y.to(x.dtype)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], y.shape[-1])


def _few_rows(library: ctypes.CDLL, rows: torch.Tensor, packed: Packed) -> torch.Tensor:
    """float32 [rows, out] by our own kernel."""
    rows = rows.float().contiguous()
    count, width = rows.shape
    y = torch.empty(count, packed[0].shape[0], dtype=torch.float32, device="cpu")  # whatever torch's defaults are
    inputs = rows.data_ptr(), packed[0].data_ptr(), packed.scale.data_ptr()
    sizes, threads = (count, width, y.shape[1]), torch.get_num_threads()
    if isinstance(packed, Quantized):
        library.gearshift_matmul8(*inputs, y.data_ptr(), *sizes, threads)
    else:
        outputs = packed.zero.data_ptr(), y.data_ptr()
        library.gearshift_matmul4(*inputs, *outputs, *sizes, packed.group, _is_half(packed), threads)
    return y


def _many_rows(rows: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Float products with one tile of the weight after another; float32 on CPUs, which are slow with 16-bit floats."""
    rows = rows.float() if rows.device.type == "cpu" else rows
    products = [F.linear(rows, unpack(tile, rows.dtype)) for tile in _tiles(packed)]
    return products[0] if len(products) == 1 else torch.cat(products, -1)


def _tiles(packed: Packed) -> Iterator[Packed]:
    """Runs of output channels."""
    channels = max(1, TILE // max(packed[0][:1].numel(), 1))
    for first in range(0, max(packed[0].shape[0], 1), channels):
        tensors = {name: part for name, part in packed._asdict().items() if isinstance(part, torch.Tensor)}
        yield packed._replace(**{name: part[first : first + channels] for name, part in tensors.items()})


def _packed(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, width: int) -> Packed:
    if zero is None:
        return Quantized(values, scale)
    return Grouped(values, scale, zero, 4, -(-width // scale.shape[1]), width)


def _linear(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    return _product(x, _packed(values, scale, zero, x.shape[-1]), bias)


def _is_half(packed: Grouped) -> bool:
    return packed.scale.dtype == torch.float16


def _examples() -> Iterator[tuple[torch.Tensor, Packed]]:
    """Small products that run through every branch of the kernels, made without touching torch's random state."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(12, 384, generator=draw, dtype=torch.float32, device="cpu").split((7, 5))
    yield x, Quantized((40 * weight).clamp(-127, 127).to(torch.int8), weight[:, 0].abs())
    for group in GROUPS:
        packed = pack4(weight, group)
        yield x, packed
        yield x, packed._replace(scale=packed.scale.float(), zero=packed.zero.float())


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() < 1e-4 * other.norm())


_linear_op = torch.library.custom_op("gearshift::weight_only_linear", _linear, mutates_args=())


@_linear_op.register_fake
def _(x: torch.Tensor, values: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, values, scale, zero, bias = inputs
    ctx.save_for_backward(values, scale, zero)
    ctx.width, ctx.bias_dtype = x.shape[-1], None if bias is None else bias.dtype


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    values, scale, zero = ctx.saved_tensors
    weight = unpack(_packed(values, scale, zero, ctx.width), grad.dtype)
    to_x = grad @ weight if ctx.needs_input_grad[0] else None
    to_bias = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[4] else None
    return to_x, None, None, None, to_bias


_linear_op.register_autograd(_backward, setup_context=_keep)
