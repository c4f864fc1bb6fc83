"""Weights in oneDNN's own layout for its int8 kernels (torch calls them `torch.ops.onednn`): made once, never saved."""

from __future__ import annotations

import functools
import platform
import threading
from typing import Any, NamedTuple

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from gearshift.quant.formats.int8 import as_signed, is_pair_safe

FULL_LEVELS, NARROW_LEVELS = 255, 127


class Packed(NamedTuple):
    """A weight in the kernel's own layout; derived, never saved.

    Attributes:
        weight: opaque oneDNN tensor.
        sums: float32 [out], the sum of each output channel's int8 values.
        no_zero_points: int32 zeros [out], which the kernels ask for.
        levels: the largest activation code that this CPU multiplies these values by without overflow.
    """

    weight: torch.Tensor
    sums: torch.Tensor
    no_zero_points: torch.Tensor
    levels: int


_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_lock = threading.Lock()


def available() -> bool:
    """Whether this machine has the kernels: an x86 CPU and a torch built with oneDNN."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return x86 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


@functools.cache
def saturates() -> bool:
    """Whether this CPU adds pairs of int8 products in 16 bits (x86 without VNNI): tried, not read from a list."""
    if not available():
        return False
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    codes = torch.full((16, 64), FULL_LEVELS, dtype=torch.uint8)
    product = multiply(
        codes, torch.ops.onednn.qlinear_prepack(weight, None), torch.ones(16), torch.zeros(16, dtype=torch.int32)
    )
    return bool((product != FULL_LEVELS * 127 * 64).any())


def packed(values: torch.Tensor) -> Packed:
    """The kernel's layout of an int8 or uint8 weight, made once and again whenever the weight was written to.

    Kept beside the tensor, not on the module: so copies, pickles and state dicts hold none of it, and a load or a move
    cannot leave a stale one behind.
    """
    version = (-1 if values.is_inference() else values._version, values.data_ptr())
    with _lock:
        entry = _packed.get(values)
        if entry is None or entry[0] != version:
            entry = _packed[values] = (version, _pack(values))
        return entry[1]


def forget(values: torch.Tensor) -> None:
    """Drop the layout of a weight; needed where tensors count no versions, that is, made in inference mode."""
    with _lock:
        _packed.pop(values, None)


def multiply(
    codes: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, no_zero_points: torch.Tensor
) -> torch.Tensor:
    """float32 codes @ int8 weight.T * scale; steps, lows and bias come after, they differ from token to token."""
    rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # bias, output, no post-op
    return torch.ops.onednn.qlinear_pointwise(codes, 1.0, 0, weight, scale, no_zero_points, *rest)


def _pack(values: torch.Tensor) -> Packed:
    signed = as_signed(values).contiguous()
    sums = signed.flatten(1).sum(-1, dtype=torch.float32)
    zeros = torch.zeros(signed.shape[0], dtype=torch.int32)
    levels = NARROW_LEVELS if saturates() and not is_pair_safe(signed) else FULL_LEVELS
    if signed.ndim == 2:
        return Packed(torch.ops.onednn.qlinear_prepack(signed, None), sums, zeros, levels)
    one = torch.ones(signed.shape[0])
    weight = torch.ops.onednn.qconv_prepack(signed, one, 1.0, 0, [1, 1], [0, 0], [1, 1], 1, None)
    return Packed(weight, sums, zeros, levels)
