"""FLUTE's kernels (Guo et al. 2024, arXiv 2407.10960; package flute-kernel) for rotated weights, on CUDA.

A kernel is tuned for a number of rows, and compared with the reference in what it answers and how fast: a layer that
FLUTE has no kernel for, or that it makes no faster, stays on the reference.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from gearshift.core.extras import installed, need
from gearshift.kernels.grid_codes import numbers, unpack
from gearshift.kernels.speed import compared

TYPES = (torch.float16, torch.bfloat16)
TOLERANCE = 0.02  # relative difference of two products in 16 bits
BUDGET = 20.0  # milliseconds

_chosen: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_lock = threading.Lock()


def missing(device: str) -> str | None:
    """Why FLUTE's kernels cannot be used on a type of device; None if they can."""
    if device != "cuda":
        return f"they are for CUDA, and the model is on {device}"
    return None if installed("flute") else "the package flute-kernel is not installed (pip install flute-kernel)"


def serves(x: torch.Tensor, rows: int) -> bool:
    """Whether FLUTE is asked for a product with x [n, in], by a layer that is prepared for so many rows."""
    return x.dtype in TYPES and x.shape[0] <= rows and missing(x.device.type) is None


@torch.library.custom_op("gearshift::higgs_flute", mutates_args=())
def multiply(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, table: torch.Tensor, bits: int, rows: int
) -> torch.Tensor:
    """x @ weight.T for rotated activations x [n, in] and a weight as in `grid_codes.numbers`."""
    version = (-1 if packed.is_inference() else packed._version, packed.data_ptr(), x.dtype)
    with _lock:
        entry = _chosen.get(packed)
        if entry is None or entry[0] != version:
            entry = _chosen[packed] = (version, _choose(Reference(packed, scale, table, bits), x, rows))
        return entry[1](x)


@multiply.register_fake
def _(x: torch.Tensor, packed: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


class Reference(nn.Module):
    """The product in plain torch."""

    def __init__(self, packed: torch.Tensor, scale: torch.Tensor, table: torch.Tensor, bits: int) -> None:
        super().__init__()
        self.weight = packed, scale, table, bits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, numbers(*self.weight, x.dtype))


class Flute(nn.Module):
    """The product by FLUTE, tuned for as many rows.

    Raises:
        RuntimeError, ValueError, KeyError: there is no kernel for this shape, group size or device.
    """

    def __init__(self, reference: Reference, dtype: torch.dtype, rows: int) -> None:
        super().__init__()
        packed, scale, table, bits = reference.weight
        prepare = need("flute.integrations.higgs", "flute", "FLUTE").prepare_data_transposed
        self._multiply = need("flute.tune", "flute", "FLUTE").qgemm_v2
        codes, group = unpack(packed, bits).contiguous(), 2 * packed.shape[1] * 4 // bits // scale.shape[1]
        *tensors, self._tuned = prepare(
            codes, scale.to(dtype).contiguous(), table.to(dtype).contiguous(), num_bits=bits, group_size=group,
            vector_size=2, dtype=dtype, device=packed.device, example_batch_size=rows, check_correctness=False,
        )  # fmt: skip
        scratch = need("flute.utils", "flute", "FLUTE").get_workspace_streamk(packed.device)
        self._tensors = (*tensors, scratch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, *self._tensors, self._tuned)


def _choose(reference: Reference, x: torch.Tensor, rows: int) -> nn.Module:
    """The faster one of those that answer rightly."""
    example = torch.randn(rows, x.shape[1], dtype=x.dtype, device=x.device)
    try:
        flute = Flute(reference, x.dtype, rows)
        want = reference(example).float()
        right = (flute(example).float() - want).norm() <= TOLERANCE * want.norm()
    except (RuntimeError, ValueError, TypeError, KeyError):
        return reference
    return flute if right and compared(reference, flute, example, BUDGET) > 1 else reference
