"""Linear layers with weights of 2 to 8 bits in groups."""

from __future__ import annotations

from typing import Any

import torch

from gearshift.kernels import dispatch
from gearshift.kernels.cpu.arithmetic import has_arithmetic
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats.grouped import Grouped, dequantize, quantize, row_bytes
from gearshift.quant.rounding.least_squares import least_squares


class GroupedLinear(QuantizedLinear):
    """nn.Linear whose weight has few bits in groups of inputs, multiplied as `kernels.dispatch` says.

    Attributes:
        codes, scale, zero, bits, group: see `Grouped`; codes, scale and zero are buffers.
        input_scale: float32 [in] that the input is multiplied by first, or None; `weight` has it in its columns.
        compute: type that products are computed in where the device has its arithmetic; None: the input's.
        backend: name of a kernel for CUDA (see `kernels.cuda.int4`), or None.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    input_scale: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        bits: int = 4,
        group: int = 64,
        scaled_input: bool = False,
        compute: torch.dtype | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.bits, self.group, self.compute, self.backend = bits, group, compute, backend
        groups = out_features, -(-in_features // group)
        codes = torch.zeros(out_features, row_bytes(in_features, bits), dtype=torch.uint8, device=device)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", torch.ones(groups, dtype=torch.float16, device=device))
        self.register_buffer("zero", torch.zeros(groups, dtype=torch.float16, device=device))
        ones = torch.ones(in_features, device=device) if scaled_input else None
        self.register_buffer("input_scale", ones)

    @classmethod
    def of(cls, layer: Any, grouped: Grouped, input_scale: torch.Tensor | None = None, **more: Any) -> GroupedLinear:
        """Put a weight in the place of a float layer's; bias, mode and number format are the layer's."""
        made = cls.empty_like(layer, grouped.bits, grouped.group, input_scale is not None, **more)
        made.codes, made.scale, made.zero, made.input_scale = *grouped[:3], input_scale
        made.take(layer)
        return made

    def format(self) -> dict[str, Any]:
        kept = {"bits": self.bits, "group": self.group, "scaled_input": self.input_scale is not None}
        return {**kept, "compute": self.compute, "backend": self.backend}

    @property
    def grouped(self) -> Grouped:
        return Grouped(self.codes, self.scale, self.zero, self.bits, self.group, self.in_features)

    def in_groups(self) -> Grouped | None:
        """The weight in the format of groups; None if the input is scaled as well."""
        return None if self.input_scale is not None else self.grouped

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        if self.input_scale is None:
            return dequantize(self.grouped, dtype)
        return (dequantize(self.grouped) * self.input_scale).to(dtype)

    def activations(self) -> str | None:
        return dispatch.rounding(self.grouped, self._wish, self.codes.device)

    @property
    def _wish(self) -> dispatch.Wish:
        return dispatch.Wish(backend=self.backend)

    def quantize(self, weight: torch.Tensor) -> None:
        """Round to nearest, on grids of the least squared error: no calibration is at hand for another weight."""
        exact = weight.detach().float() / (1 if self.input_scale is None else self.input_scale)
        grouped = quantize(exact, self.bits, self.group, lambda groups: least_squares(groups, self.bits))
        self.codes, self.scale, self.zero = grouped[:3]

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        given = rows.dtype
        if self.input_scale is not None:
            rows = rows * self.input_scale.to(given)
        computed = self.compute is not None and (rows.is_cuda or has_arithmetic(self.compute))
        return dispatch.matmul(rows.to(self.compute) if computed else rows, self.grouped, self._wish).to(given)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}, group={self.group}"
