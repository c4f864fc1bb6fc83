"""Linear layers on bitsandbytes' operators, which run on a CPU as well as on CUDA; their state is plain tensors.

LLM.int8() is from arXiv 2208.07339, the 4-bit types and the rounding of their scales from QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.extras import need
from gearshift.kernels import dispatch
from gearshift.kernels.cpu import onednn
from gearshift.kernels.cpu.onednn import saturates
from gearshift.kernels.derived import Derived
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats.gaussian_grid import Pairs
from gearshift.quant.formats.int8 import Quantized, dequantize

bnb = need("bitsandbytes", "bitsandbytes", "A layer of bitsandbytes")
OUTLIERS = 6.0  # inputs from here on are multiplied in floating point, as in the paper
BLOCK, SCALES_BLOCK = 64, 256  # weights with a scale in common; scales with a scale in common
COMPUTES_IN = (torch.float32, torch.float16, torch.bfloat16)


class LLMInt8Linear(QuantizedLinear):
    """8-bit weights, 8-bit inputs token by token; columns with an input of 6 or more are multiplied in floating point.

    Attributes:
        qweight: int8 [out, in].
        scale: float32 [out]: weight = qweight * scale / 127.
    """

    qweight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, in_features: int, out_features: int, bias: bool, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.register_buffer("qweight", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(out_features, device=device))

    def quantize(self, weight: torch.Tensor) -> None:
        self.qweight, self.scale, _ = bnb.functional.int8_vectorwise_quant(weight.to(_exact(weight), copy=True))

    def activations(self) -> str | None:
        if self.qweight.device.type == "cpu" and saturates():
            return None
        return f"to 8 bits, token by token, but for columns with a value of {OUTLIERS:g} or more"

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        run = _int8_op if torch.compiler.is_compiling() or torch.jit.is_tracing() else _int8
        return run(rows, self.qweight, self.scale)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return bnb.functional.int8_vectorwise_dequant(self.qweight, self.scale).to(dtype)


def _exact(tensor: torch.Tensor) -> torch.dtype:
    """What a tensor is rounded to 8 bits from: CUDA's operator takes nothing but float16."""
    return torch.float16 if tensor.is_cuda else torch.float32


def _int8(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if rows.device.type == "cpu":
        held = Quantized(weight, scale / 127)
        return _int8_on_cpu(rows, held) if _rounds(rows) else dispatch.matmul_now(rows, held, None, dispatch.PLAIN)
    own = rows.to(_exact(rows), copy=True)  # bitsandbytes blanks the outliers in what it is given for a moment
    codes, steps, columns = bnb.functional.int8_vectorwise_quant(own, threshold=OUTLIERS)
    return torch.ops.bitsandbytes.int8_mixed_scaled_mm(rows, codes, weight, steps, scale, columns, None)[0]


def _rounds(rows: torch.Tensor) -> bool:
    """Whether rounding so many rows on a CPU is any faster than leaving them as they are."""
    return not saturates() and rows.shape[0] > dispatch.DYNAMIC // 2 and onednn.available()


def _int8_on_cpu(rows: torch.Tensor, held: Quantized) -> torch.Tensor:
    """The same by oneDNN; the library's own product on CPUs makes floats of the whole weight at each call."""
    columns = (rows.abs() >= OUTLIERS).any(0).nonzero().squeeze(1)
    rounded = onednn.linear(rows.index_fill(1, columns, 0), held, None)
    if not len(columns):
        return rounded
    exact = dequantize(held._replace(values=held.values[:, columns]), rows.dtype)
    return rounded.addmm_(rows[:, columns], exact.t())


_int8_op = torch.library.custom_op("gearshift::bitsandbytes_int8", _int8, mutates_args=())  # how many columns: unknown


@_int8_op.register_fake
def _(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


class FourBitLinear(QuantizedLinear):
    """4-bit weights with a scale for each 64 of them, multiplied in the type of the input.

    Attributes:
        packed: uint8 [out * in / 2, 1], two weights a byte.
        absmax: float32 [blocks], or uint8 if the scales are rounded as well.
        nested_absmax: float32 [blocks / 256], the scales' scales; None if `absmax` is float.
        nested_code: float32 [256], what the scales' bytes stand for, the same for all layers; None likewise.
        offset: float32 [], the scales' mean; None likewise.
        quant_type: 'fp4' or 'nf4'.
    """

    packed: torch.Tensor
    absmax: torch.Tensor
    nested_absmax: torch.Tensor | None
    nested_code: torch.Tensor | None
    offset: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        device: Any = None,
        dtype: torch.dtype | None = None,
        quant_type: str = "fp4",
        double_quant: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.quant_type = quant_type
        blocks = -(in_features * out_features // -BLOCK)
        self.register_buffer(
            "packed", torch.zeros(in_features * out_features // 2, 1, dtype=torch.uint8, device=device)
        )
        scales = torch.uint8 if double_quant else torch.float32
        self.register_buffer("absmax", torch.zeros(blocks, dtype=scales, device=device))
        nested = {"nested_absmax": (-(blocks // -SCALES_BLOCK),), "nested_code": (256,), "offset": ()}
        for name, shape in nested.items():
            self.register_buffer(name, torch.zeros(shape, device=device) if double_quant else None)

    def format(self) -> dict[str, Any]:
        return {"quant_type": self.quant_type, "double_quant": self.nested_absmax is not None}

    def quantize(self, weight: torch.Tensor) -> None:
        exact = weight if weight.dtype in COMPUTES_IN else weight.float()
        double_quant = self.nested_absmax is not None
        self.packed, state = bnb.functional.quantize_4bit(
            exact.contiguous(), blocksize=BLOCK, compress_statistics=double_quant, quant_type=self.quant_type
        )
        self.absmax = state.absmax
        if state.nested:
            self.nested_absmax, self.offset = state.state2.absmax, state.offset
            self.nested_code = _scale_code(weight.device)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.device.type == "cpu":
            return self._product_on_cpu(rows)
        if rows.dtype not in COMPUTES_IN:
            return self.product(rows.float()).to(rows.dtype)
        nested = (self.absmax, self.nested_code, self.offset) if self.nested_absmax is not None else ()
        scales = self.absmax if self.nested_absmax is None else self.nested_absmax
        shape = [self.out_features, self.in_features]
        return torch.ops.bitsandbytes.gemm_4bit(rows, self.packed, shape, scales, BLOCK, self.quant_type, None, *nested)

    def _product_on_cpu(self, rows: torch.Tensor) -> torch.Tensor:
        if self.in_features % BLOCK:  # blocks then lie across output channels
            return F.linear(rows, self.dequantized(rows.dtype))
        shape = self.out_features, -1
        return dispatch.matmul(rows, Pairs(self.packed.view(shape), self._scales().view(shape), self._table(), 4))

    def _scales(self) -> torch.Tensor:
        """float32 [blocks]."""
        if self.nested_absmax is None:
            return self.absmax
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._unnested()
        return _scales_of.get(self.absmax, self._unnested)

    def _unnested(self) -> torch.Tensor:
        kept = self.nested_absmax, self.nested_code, SCALES_BLOCK, torch.float32
        return torch.ops.bitsandbytes.dequantize_blockwise(self.absmax, *kept) + self.offset

    def _table(self) -> torch.Tensor:
        """What a byte stands for, whose high half comes first: float32 [256, 2]."""
        return _pairs_of(self.quant_type, self.packed.device)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        scales = self._scales()
        # as one row: where rows end within a block, the library's AVX-512 kernel takes the next block's scale
        shape = [1, self.out_features * self.in_features]
        computed = dtype if dtype in COMPUTES_IN else torch.float32
        dequantize = torch.ops.bitsandbytes.dequantize_4bit
        weight = dequantize(self.packed, scales, BLOCK, self.quant_type, shape, computed)
        return weight.view(self.out_features, self.in_features).to(dtype)


_scales_of = Derived()


@functools.cache
def _pairs_of(quant_type: str, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        levels = bnb.functional.get_4bit_type(quant_type, device=device)
        return torch.cartesian_prod(levels, levels)


@functools.cache
def _scale_code(device: torch.device) -> torch.Tensor:
    return bnb.functional.create_dynamic_map().to(device)


class HostLinear(nn.Linear):
    """A float32 linear layer that stays on the CPU when its model goes elsewhere; its input comes to it and goes back.

    The weights take no part in what `.to()`, `.half()` and the like do to a model.
    """

    @classmethod
    def from_float(cls, linear: nn.Linear) -> HostLinear:
        """The same layer, float32, on the CPU; it shares storage with one that is there already."""
        layer = cls.empty_like(linear)
        for name, parameter in linear.named_parameters():
            there = parameter.detach().to("cpu", torch.float32)
            setattr(layer, name, nn.Parameter(there, requires_grad=parameter.requires_grad))
        return layer.train(linear.training)

    @classmethod
    def empty_like(cls, linear: nn.Linear) -> HostLinear:
        """The layer without storage, for a state dict to be assigned to."""
        return cls(linear.in_features, linear.out_features, linear.bias is not None, "meta").eval()

    def format(self) -> dict[str, bool]:
        return {"on_host": True}

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input.to(self.weight), self.weight, self.bias).to(input)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> HostLinear:
        return self
