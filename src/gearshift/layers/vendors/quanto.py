"""Linear layers in optimum-quanto's formats, their state in plain tensors.

Weights of 2 and 4 bits are unpacked here: quanto's own unpacking compiles a C++ extension at its first call, which
takes minutes, and waits for ever if such a build was killed once.
"""

from __future__ import annotations

from typing import Any

import optimum.quanto as quanto
import torch
from torch import nn
from torch.nn import functional as F

from gearshift.kernels import dispatch, static_int8
from gearshift.kernels.derived import Derived
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats.float8 import Float8, widened
from gearshift.quant.formats.grouped import Grouped, pack
from gearshift.quant.formats.int8 import Quantized, as_grouped
from gearshift.quant.formats.scales import usable
from gearshift.quant.formats.weights import Weight

_grouped = Derived()


class QuantoLinear(QuantizedLinear):
    """A linear layer with quanto's weights, and where a scale for them was calibrated 8-bit activations.

    Attributes:
        kind: quanto's name of the weights' type.
        values: int8 or float8_e4m3fn [out, in]; of 2 and 4 bits uint8 [rows / 4 or 2, group], rows of groups far apart
            in one byte.
        scale: float32 [out, 1], or [rows, 1].
        lowest: float32 [rows, 1]: weight = values * scale - lowest; None for 8 bits, where weight = values * scale.
        input_scale: float32 [], of activations that are rounded to the weights' own type; None if they are not.
    """

    values: torch.Tensor
    scale: torch.Tensor
    lowest: torch.Tensor | None
    input_scale: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        device: Any = None,
        dtype: torch.dtype | None = None,
        kind: str = "qfloat8",
        calibrated: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.kind = kind
        self.group = group = _plan(in_features, out_features, kind).weight_group_size or in_features
        rows, bits = in_features * out_features // group, getattr(quanto, kind).bits
        stored, place = (rows, getattr(quanto, kind).dtype) if bits == 8 else (-(rows * bits // -8), torch.uint8)
        self.register_buffer("values", torch.zeros(stored, group, dtype=place, device=device))
        self.register_buffer("scale", torch.ones(rows, 1, device=device))
        self.register_buffer("lowest", torch.zeros(rows, 1, device=device) if bits < 8 else None)
        self.register_buffer("input_scale", torch.ones((), device=device) if calibrated else None)

    @classmethod
    def from_float(cls, linear: nn.Linear, kind: str, input_scale: torch.Tensor | None = None) -> QuantoLinear:
        """Quantize a float layer, which stays as it was.

        Args:
            kind: 'qint2', 'qint4', 'qint8' or 'qfloat8'.
            input_scale: float32 [], what one step of its 8-bit activations is; only with 8-bit weights.
        """
        layer = super().from_float(linear, kind, input_scale is not None)
        layer.input_scale = input_scale
        return layer

    def format(self) -> dict[str, Any]:
        return {"kind": self.kind, "calibrated": self.input_scale is not None}

    def quantize(self, weight: torch.Tensor) -> None:
        self.values, self.scale, self.lowest = _rounded(weight.float(), self.kind)

    def in_groups(self) -> Grouped | None:
        """The weight in the format of groups, if it has 8 bits and is taken with activations as they come."""
        plain = self.kind == "qint8" and self.input_scale is None
        return as_grouped(Quantized(self.values, self.scale.flatten())) if plain else None

    def activations(self) -> str | None:
        if self.out_features == 1:
            return None
        if self.input_scale is not None:
            return "to 8 bits, in the ranges that calibration found"
        return dispatch.rounding(self.held(), dispatch.PLAIN, self.values.device)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.dtype == torch.float64:
            return self.product(rows.float()).double()
        step = self.input_scale
        if step is not None:
            codes = torch.ops.quanto.quantize_symmetric(
                rows, dtype=self.values.dtype, axis=None, scale=step.to(rows.dtype)
            )
            if self.kind == "qint8" and rows.shape[0] > dispatch.DYNAMIC:
                return (static_int8.accumulate(codes, self.values) * (step * self.scale).t()).to(rows.dtype)
            rows = _floats(codes, step.expand(codes.shape[0], 1)).to(rows.dtype)
        if self.out_features == 1:  # quanto then takes each weight for a row
            return F.linear(rows, self.dequantized(rows.dtype))
        return dispatch.matmul(rows, self.held())

    def held(self) -> Weight:
        """The weight as our own kernels take it: quanto's product makes floats of it at each call."""
        scale = self.scale.flatten()
        if self.kind == "qfloat8":
            return Float8(self.values, scale)
        if self.kind == "qint8":
            return Quantized(self.values, scale)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._in_rows()
        return _grouped.get(self.values, self._in_rows)

    def _in_rows(self) -> Grouped:
        """2 and 4 bits with the groups of an output channel beside each other, kept beside quanto's own layout."""
        bits = getattr(quanto, self.kind).bits
        codes = unpacked(self.values, bits)[: self.scale.shape[0]].reshape(self.out_features, self.in_features)
        scale = self.scale.reshape(self.out_features, -1)
        zero = self.lowest.reshape(self.out_features, -1) / scale  # type: ignore[union-attr]
        return Grouped(pack(codes, bits), scale, zero, bits, self.group, self.in_features)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        if self.lowest is None:
            return _floats(self.values, self.scale).to(dtype)
        values = unpacked(self.values, getattr(quanto, self.kind).bits)[: self.scale.shape[0]]
        return (values * self.scale - self.lowest).reshape(self.out_features, self.in_features).to(dtype)

    def extra_repr(self) -> str:
        calibrated = "" if self.input_scale is None else ", 8-bit activations"
        return f"{super().extra_repr()}, {self.kind}{calibrated}"


def _floats(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 values [n, m] of 8 bits * scale [n, 1]."""
    if not values.is_floating_point() or torch.jit.is_tracing():
        return values.float() * scale
    return widened(values, scale.squeeze(1))


def step_of(x: torch.Tensor, kind: str) -> torch.Tensor:
    """The scale of activations of this type that fits an input exactly: float32 []."""
    return quanto.absmax_scale(x.float(), getattr(quanto, kind))


def unpacked(values: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 numbers of 2 or 4 bits from bytes [n, ...]: the low bits of all, then the next: [n * 8 / bits, ...]."""
    return torch.cat([(values >> low) & (2**bits - 1) for low in range(0, 8, bits)])


def _rounded(weight: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A float32 weight as values, scales and, below 8 bits, what is to be subtracted, by quanto's own rules."""
    qtype, plan = getattr(quanto, kind), _plan(weight.shape[1], weight.shape[0], kind)
    if qtype.bits == 8:
        scale = usable(plan.optimizer(weight, qtype=qtype, axis=0))
        return quanto.quantize_weight(weight, qtype, 0, scale, optimized=False)._data, scale, None
    group = plan.weight_group_size
    scale, lowest = plan.optimizer(weight, qtype=qtype, axis=0, group_size=group)
    scale = usable(scale)
    held = quanto.quantize_weight(weight, qtype, 0, scale, lowest, group_size=group, optimized=False)
    return held._data._data, scale, lowest


def _plan(in_features: int, out_features: int, kind: str) -> Any:
    """quanto's own empty layer, which knows the group's size and how scales are found."""
    return quanto.QLinear(in_features, out_features, bias=False, weights=getattr(quanto, kind), device="meta")
