"""FLUTE's kernels (Guo et al. 2024, arXiv 2407.10960; package flute-kernel) for rotated weights, on CUDA.

A kernel is tuned for a number of rows, and speed_ratio with the reference in what it answers and how fast: a layer that
FLUTE has no kernel for, or that it makes no faster, stays on the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.errors import MissingExtra
from gearshift.core.extras import installed, need
from gearshift.kernels.derived import Derived
from gearshift.measure.timing import speed_ratio
from gearshift.quant.formats.gaussian_grid import numbers, unpack

INSTALLED = installed("flute")  # looked up once: compiled programs cannot
TYPES = (torch.float16, torch.bfloat16)
TOLERANCE = 0.02  # relative difference of two products in 16 bits
BUDGET = 20.0  # milliseconds

_chosen = Derived()


def missing(device: str) -> str | None:
    """Why FLUTE's kernels cannot be used on a type of device, in a sentence; None if they can."""
    if device != "cuda":
        return f"FLUTE's kernels are for CUDA, and the model is on {device}."
    try:
        _flute()
    except MissingExtra as error:
        return str(error)
    return None


def serves(x: torch.Tensor, rows: int) -> bool:
    """Whether FLUTE is asked for a product with x [n, in], by a layer that is prepared for so many rows."""
    return INSTALLED and x.is_cuda and x.dtype in TYPES and x.shape[0] <= rows


@torch.library.custom_op("gearshift::higgs_flute", mutates_args=())
def multiply(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, table: torch.Tensor, bits: int, rows: int
) -> torch.Tensor:
    """x @ weight.T for rotated activations x [n, in] and a weight as in `gaussian_grid.numbers`."""
    reference = Reference(packed, scale, table, bits)
    faster = _chosen.get(packed, lambda: _faster(reference, x, rows), x.dtype)
    return (faster or reference)(x)


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
        MissingExtra: FLUTE is not installed or does not import.
        RuntimeError, ValueError, TypeError, KeyError: it has no kernel for this shape, group size or device.
    """

    def __init__(self, reference: Reference, dtype: torch.dtype, rows: int) -> None:
        super().__init__()
        packed, scale, table, bits = reference.weight
        prepare, self._multiply, workspace = _flute()
        codes, group = unpack(packed, bits).contiguous(), 2 * packed.shape[1] * 4 // bits // scale.shape[1]
        *tensors, self._tuned = prepare(
            codes, scale.to(dtype).contiguous(), table.to(dtype).contiguous(), num_bits=bits, group_size=group,
            vector_size=2, dtype=dtype, device=packed.device, example_batch_size=rows, check_correctness=False,
        )  # fmt: skip
        self._tensors = (*tensors, workspace(packed.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, *self._tensors, self._tuned)


def _flute() -> tuple[Callable, Callable, Callable]:
    """FLUTE's functions that lay out codes, multiply, and give the memory that multiplying needs."""
    layout, tune, utils = (need(f"flute.{name}", "flute", "FLUTE") for name in ("integrations.higgs", "tune", "utils"))
    return layout.prepare_data_transposed, tune.qgemm_v2, utils.get_workspace_streamk


def _faster(reference: Reference, x: torch.Tensor, rows: int) -> Flute | None:
    """FLUTE's product where it answers rightly, and faster than the reference, for so many rows of x's kind."""
    generator = torch.Generator(x.device).manual_seed(0)
    example = torch.randn(rows, x.shape[1], generator=generator, dtype=x.dtype, device=x.device)
    try:
        flute = Flute(reference, x.dtype, rows)
        want = reference(example).float()
        right = (flute(example).float() - want).norm() <= TOLERANCE * want.norm()
    except (MissingExtra, RuntimeError, ValueError, TypeError, KeyError):
        return None
    return flute if right and speed_ratio(reference, flute, example, BUDGET) > 1 else None
