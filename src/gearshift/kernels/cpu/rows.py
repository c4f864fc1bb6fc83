"""Rounding activations to 8 bits, and back after the product: our own kernels, or torch where those cannot be had.

Beside an int8 product these are what takes the time on CPUs with VNNI: as chains of tensor operations they may take
several times as long as the product itself.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch

from gearshift.kernels.cpu.native import declare, native

POINTER, LENGTH, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
SIGNATURES: dict[str, list[Any]] = {
    "gearshift_rows_to_codes": [POINTER] * 4 + [LENGTH] * 2 + [INT] * 2,
    "gearshift_rows_from_codes": [POINTER] * 7 + [LENGTH] * 2 + [INT],
    "gearshift_range": [POINTER] * 2 + [LENGTH, INT],
    "gearshift_to_codes": [POINTER] * 2 + [LENGTH, FLOAT, FLOAT, INT],
}
LEAST = 1e-30  # distance of two codes


class Codes(NamedTuple):
    """Rows in 8 bits: x = low + step * values.

    Attributes:
        values: uint8 [rows, width].
        low, step: float32 [rows, 1].
    """

    values: torch.Tensor
    low: torch.Tensor
    step: torch.Tensor


def to_codes(rows: torch.Tensor, levels: int) -> Codes:
    """Round each row of float32 [rows, width] to codes from 0 to `levels`, spread over the row's own range."""
    library = kernels()
    return _to_codes(rows, levels) if library is None else _to_codes_by(library, rows.contiguous(), levels)


def from_codes(
    y: torch.Tensor,
    codes: Codes,
    sums: torch.Tensor,
    bias: torch.Tensor | None,
    offsets: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
) -> torch.Tensor:
    """y * step + low * sums + bias (+ total * offsets), written over y, float32 [rows, out].

    Args:
        sums, bias, offsets: float32 [out].
        total: float32 [rows, 1]; given with offsets.
    """
    library = kernels()
    if library is not None and y.is_contiguous():
        given = [codes.step, codes.low, total, sums, offsets, bias]
        dense = [None if t is None else t.contiguous() for t in given]
        pointers = [None if t is None else t.data_ptr() for t in dense]
        library.gearshift_rows_from_codes(y.data_ptr(), *pointers, *y.shape, torch.get_num_threads())
        return y
    shares, columns = [codes.low], [sums]
    if total is not None and offsets is not None:
        shares.append(total)
        columns.append(offsets)
    if bias is not None:
        shares.append(torch.ones_like(codes.low))
        columns.append(bias)
    return y.mul_(codes.step).addmm_(torch.cat(shares, -1), torch.stack(columns))


def ends_of(image: torch.Tensor) -> tuple[float, float]:
    """The least and the largest number of a dense float32 tensor with elements; both NaN if one of them is."""
    library = kernels()
    if library is None:
        # aminmax takes up to 14 times as long when it has to walk a channels_last image in channels-first order
        low, high = torch.aminmax(_in_memory_order(image))
        return float(low), float(high)
    ends = torch.empty(2, dtype=torch.float32, device="cpu")
    library.gearshift_range(image.data_ptr(), ends.data_ptr(), image.numel(), torch.get_num_threads())
    low, high = ends.tolist()
    return low, high


def codes_in_one_range(image: torch.Tensor, step: float, zero: int) -> torch.Tensor:
    """uint8 codes of a dense float32 tensor, in its layout: image / step + zero, rounded."""
    library = kernels()
    if library is None:
        return _whole((image * (1 / step)).add_(zero + 0.5))
    codes = torch.empty_like(image, dtype=torch.uint8)
    sizes = image.numel(), 1 / step, zero + 0.5
    library.gearshift_to_codes(image.data_ptr(), codes.data_ptr(), *sizes, torch.get_num_threads())
    return codes


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Our own kernels, compiled if need be; None where they cannot be or answer wrongly."""
    library = native("int8_rows").library
    if library is None:
        return None
    declare(library, SIGNATURES)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 83, generator=draw, dtype=torch.float32, device="cpu")
    ours, theirs = _to_codes_by(library, rows, 255), _to_codes(rows, 255)
    near = (ours.values.int() - theirs.values.int()).abs().max() <= 1
    return library if near and torch.allclose(ours.step, theirs.step) and torch.equal(ours.low, theirs.low) else None


def _to_codes(rows: torch.Tensor, levels: int) -> Codes:
    low = rows.amin(-1, keepdim=True)
    step = (rows.amax(-1, keepdim=True) - low).mul_(1 / levels).clamp_min_(LEAST)
    # less `low` first: x / step - low / step would lose a small range that lies far from zero
    return Codes(_whole((rows - low).mul_(step.reciprocal()).add_(0.5)), low, step)


def _to_codes_by(library: ctypes.CDLL, rows: torch.Tensor, levels: int) -> Codes:
    made = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are
    values = torch.empty(rows.shape, dtype=torch.uint8, device="cpu")
    low, step = torch.empty(len(rows), 1, **made), torch.empty(len(rows), 1, **made)
    pointers = map(torch.Tensor.data_ptr, (rows, values, low, step))
    library.gearshift_rows_to_codes(*pointers, *rows.shape, levels, torch.get_num_threads())
    return Codes(values, low, step)


def _whole(scaled: torch.Tensor) -> torch.Tensor:
    """uint8 codes of what was scaled; by way of int16, because float to uint8 takes three times as long."""
    return scaled.to(torch.int16).to(torch.uint8)


def _in_memory_order(image: torch.Tensor) -> torch.Tensor:
    last = image.ndim == 4 and image.is_contiguous(memory_format=torch.channels_last)
    return image.permute(0, 2, 3, 1) if last else image
