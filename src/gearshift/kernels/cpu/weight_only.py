"""Products with weights of few bits on CPUs, in any format, for language models that decode one token at a time.

Such a model reads each weight once for each token, so its speed is that of the memory: the fewer bits, the faster. Our
own kernels (csrc/) widen the bits in registers or in the first cache. There are two, and `kernels.dispatch` says which
is for what: `widened` takes activations as they are; `rounded` rounds them to 8 bits in runs of at most 128 inputs of a
group, so that the products of codes are whole numbers, an error 20 dB and more below that of the weights. ATen has such
kernels too: on AVX2 those for float activations were several times slower than float weights, those for bfloat16 ones
half as fast as these.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from gearshift.kernels.cpu.native import declare, native
from gearshift.kernels.derived import Derived
from gearshift.kernels.reference import rounded_reference
from gearshift.quant.formats import float8, gaussian_grid, grouped, weights
from gearshift.quant.formats.float8 import Float8
from gearshift.quant.formats.gaussian_grid import Pairs
from gearshift.quant.formats.grouped import BLOCK, Grouped
from gearshift.quant.formats.int8 import Quantized, quantize_weight
from gearshift.quant.formats.weights import Weight, dequantize

RUN = 128  # activations that `rounded` gives a step in common, at most
EIGHT = 8  # numbers of a table that are multiplied at a time
POINTER, LENGTH, FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
SIGNATURES = {
    "widened": {"gearshift_widened": [POINTER] * 6 + [LENGTH] * 5 + [FLAG] * 3},
    "rounded": {"gearshift_rounded": [POINTER] * 5 + [LENGTH] * 5 + [FLAG] * 2},
}
KINDS = {torch.int8: 0, torch.uint8: 1, torch.float8_e4m3fn: 2, torch.float8_e5m2: 3}  # of bytes; see csrc/widened.cpp

_tables = Derived()


class Kernels(NamedTuple):
    """The two libraries."""

    widened: ctypes.CDLL
    rounded: ctypes.CDLL


@functools.cache
def kernels() -> Kernels | None:
    """Our own kernels, compiled if need be; None where they cannot be or answer wrongly (then see `problem`)."""
    libraries = [native(stem).library for stem in SIGNATURES]
    for library, signatures in zip(libraries, SIGNATURES.values(), strict=True):
        if library is None:
            return None
        declare(library, signatures)
    found = Kernels(*libraries)  # type: ignore[arg-type]
    return found if all(_is_right(found, x, weight) for x, weight in _examples()) else None


def problem() -> str | None:
    """Why our own kernels are not there, as a sentence; None if they are."""
    if kernels() is not None:
        return None
    found = filter(None, (native(stem).problem for stem in SIGNATURES))
    return next(found, "The kernels that were compiled for this CPU do not answer right on it.")


def lacks_widened(weight: Weight) -> str | None:
    """Why `widened` cannot multiply by a weight, in words; None if it can."""
    if isinstance(weight, Pairs) and weights.group(weight) % EIGHT:
        return f"it takes groups of a multiple of {EIGHT} numbers of a table"
    return _lacks_anything()


def lacks_rounded(weight: Weight) -> str | None:
    """Why `rounded` cannot, likewise."""
    return _lacks_rounded(weight) or _lacks_anything()


def multiply_widened(rows: torch.Tensor, weight: Weight) -> torch.Tensor:
    """float32 rows [n, in] @ weight.T."""
    found = kernels()
    assert found is not None
    return _widened(found, rows.float().contiguous(), weight)


def multiply_rounded(rows: torch.Tensor, weight: Grouped) -> torch.Tensor:
    """The same with each row rounded to 8 bits in runs of at most 128 inputs within the weight's groups."""
    found = kernels()
    assert found is not None
    return _rounded(found, rows.float().contiguous(), weight)


def unpack(weight: Weight) -> torch.Tensor:
    """The float32 weight [out, in] that the bits stand for."""
    found = kernels() if weight[0].device.type == "cpu" and lacks_widened(weight) is None else None
    return dequantize(weight) if found is None else _widened(found, None, weight)


def _lacks_anything() -> str | None:
    return None if kernels() is not None else problem()


def _lacks_rounded(weight: Weight) -> str | None:
    if not isinstance(weight, Grouped) or weight.bits == 8:
        return "it multiplies whole numbers of 2, 3 or 4 bits"
    if weight.group % BLOCK and weight.group < weight.width:
        return f"it takes groups of a multiple of {BLOCK} inputs, and not of {weight.group}"
    return None


def _widened(found: Kernels, rows: torch.Tensor | None, weight: Weight) -> torch.Tensor:
    """float32 [rows, out]; without rows the weight itself."""
    codes, scale = weight[0].contiguous(), weight.scale.contiguous()
    zero, table, kind = _parts(weight, codes)
    out, width, row = codes.shape[0], weights.in_features_of(weight), codes.shape[1]
    count = 0 if rows is None else rows.shape[0]
    y = torch.empty((out, width) if rows is None else (count, out), dtype=torch.float32, device="cpu")
    pointers = [None if t is None else t.data_ptr() for t in (rows, codes, scale, zero, table, y)]
    sizes = (count, width, out, row, max(weights.group(weight), 1))
    found.widened.gearshift_widened(*pointers, *sizes, kind, _is_half(scale), torch.get_num_threads())
    return y


def _parts(weight: Weight, codes: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, int]:
    """Zeros in the type of the scales, table and kind, as the kernel takes them."""
    if isinstance(weight, Grouped):
        zero = weight.zero.to(weight.scale.dtype).contiguous()
        return zero, None, KINDS[torch.uint8] if weight.bits == 8 else 5 + weight.bits
    if isinstance(weight, Pairs):
        return None, _tables.get(weight.table, lambda: _by_bytes(weight.table, weight.bits)), 2 + weight.bits
    zero = weight.zero_point if isinstance(weight, Quantized) else None
    return None if zero is None else zero.to(weight.scale.dtype), None, KINDS[codes.dtype]


def _by_bytes(table: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 numbers of each code; of 2 bits of each byte, which has two codes."""
    if bits == 2:
        byte = torch.arange(256)
        table = torch.cat([table[byte & 15], table[byte >> 4]], -1)
    return table.float().contiguous()


def _rounded(found: Kernels, rows: torch.Tensor, weight: Grouped) -> torch.Tensor:
    codes, scale = weight.codes.contiguous(), weight.scale.contiguous()
    zero = weight.zero.to(scale.dtype).contiguous()
    y = torch.empty(rows.shape[0], codes.shape[0], dtype=torch.float32, device="cpu")  # whatever torch's defaults are
    pointers = [t.data_ptr() for t in (rows, codes, scale, zero, y)]
    group = weight.group if weight.group < weight.width else -(-weight.width // BLOCK) * BLOCK
    sizes = (*rows.shape, y.shape[1], group, weight.bits)
    found.rounded.gearshift_rounded(*pointers, *sizes, _is_half(scale), torch.get_num_threads())
    return y


def _is_half(scale: torch.Tensor) -> bool:
    return scale.dtype == torch.float16


def _examples() -> Iterator[tuple[torch.Tensor, Any]]:
    """Small products that run through every branch of the kernels, made without touching torch's random state."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(14, 200, generator=draw, dtype=torch.float32, device="cpu").split((9, 5))
    yield from ((x, quantize_weight(weight, unsigned)) for unsigned in (False, True))
    for dtype in float8.FORMATS.values():
        values, scale = float8.rounded(weight, dtype)
        yield x, Float8(values, scale[:, 0])
    for bits in (2, 3, 4, 8):
        for group in (8, 32, 64, 96, 128, 256):
            made = grouped.quantize(weight, bits, group)
            yield x, made
            yield x, made._replace(scale=made.scale.float(), zero=made.zero.float())
    for bits in (2, 3, 4):
        codes, scale = gaussian_grid.fit(weight.unflatten(1, (-1, 40)), bits, 2)
        table = gaussian_grid.pairs(bits, 2)
        yield x, Pairs(gaussian_grid.pack(codes.flatten(1), bits), scale, table, bits)


def _is_right(found: Kernels, x: torch.Tensor, weight: Any) -> bool:
    if not _close(_widened(found, x, weight), F.linear(x, dequantize(weight))):
        return False
    return _lacks_rounded(weight) is not None or _close(_rounded(found, x, weight), rounded_reference(x, weight, RUN))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() < 1e-4 * other.norm())
