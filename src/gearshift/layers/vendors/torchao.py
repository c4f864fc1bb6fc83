"""Linear layers whose weight is one of torchao's tensors; their state is plain tensors.

torchao's weights are tensor subclasses that hold plain tensors and say what they mean; the layer keeps these tensors as
its buffers, and what they mean follows from the quantization type and the layer's sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.errors import GearshiftError
from gearshift.core.extras import need
from gearshift.kernels import dispatch
from gearshift.kernels.cpu import onednn
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats.float8 import Float8
from gearshift.quant.formats.grouped import Grouped, pack, unpack
from gearshift.quant.formats.int8 import Quantized, as_grouped
from gearshift.quant.formats.scales import usable
from gearshift.quant.formats.weights import Weight

ao = need("torchao.quantization", "torchao", "A layer of torchao")
workflows = need("torchao.quantization.quantize_.workflows", "torchao", "A layer of torchao")
ROUNDING = {
    "int4dq": dispatch.TOKENS,
    "int8dq": dispatch.TOKENS,
    "fp8dq": "to 8-bit floats, in one range for all tokens",
    "fp8dqrow": dispatch.FLOAT8_TOKENS,
}
EMPTY = 1e-35  # rows of nothing larger are zeros
GROUPS = (64, 32)  # 4 bits: inputs that share a scale and a zero point; the first that divides them
# what gearshift's own products are for on a CPU; that of int8 activations is there on some
OWN = {"int8wo", "int4wo", "int4dq", "fp8wo"} | ({"int8dq"} if onednn.available() else set())


class TorchaoLinear(QuantizedLinear):
    """A linear layer with a weight of torchao's.

    On CUDA the product is torchao's. On a CPU gearshift's own take the same weights, where it has them: torch's int8
    product, which torchao calls, has no fast kernel on CPUs without VNNI, and a weight that torchao makes float anew in
    each call is what decoding a token waits for.

    Attributes:
        quant_type: as the algorithm names it.
        kind: torchao's class of tensor.
        meaning: what its constructor takes besides plain tensors.
        packed: whether `qdata` is 4-bit values, two a byte, that torchao wants as int8.
        qdata and others: torchao's plain tensors.
    """

    qdata: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, weight: Any, linear: nn.Linear, quant_type: str) -> None:
        sizes = (linear.in_features, linear.out_features, linear.bias is not None)
        super().__init__(*sizes, linear.weight.device, linear.weight.dtype)
        self.quant_type, self.kind = quant_type, type(weight)
        self.packed = self.kind is ao.IntxUnpackedToInt8Tensor
        self._hold(weight)

    @classmethod
    def from_float(cls, linear: nn.Linear, quant_type: str, tiled: bool | None = None) -> TorchaoLinear:
        """Quantize a float layer, which stays as it was; one on the meta device gives a layer to load a state into.

        Args:
            quant_type: a name in `ROUNDED`.
            tiled: int4wo: in the layout of CUDA's kernel; None: on CUDA.
        """
        weight = linear.weight.detach()
        tiled = quant_type == "int4wo" and (weight.is_cuda if tiled is None else tiled)
        layer = cls(_rounded(weight, quant_type, tiled), linear, quant_type)
        layer.take(linear)
        return layer

    @classmethod
    def empty_like(cls, layer: nn.Linear, quant_type: str, tiled: bool) -> TorchaoLinear:
        return cls.from_float(layer.to("meta"), quant_type, tiled).eval()

    def format(self) -> dict[str, Any]:
        return {"quant_type": self.quant_type, "tiled": self.tiled}

    def quantize(self, weight: torch.Tensor) -> None:
        self._hold(_rounded(weight, self.quant_type, self.tiled))

    @property
    def tiled(self) -> bool:
        """Whether the weight is in a layout that only CUDA multiplies."""
        return self.kind is ao.Int4TilePackedTo4dTensor

    def joined(self) -> Any:
        """torchao's weight, made of this layer's buffers."""
        if self.packed:
            codes = unpack(self.qdata, 4, self.in_features).to(torch.int8) - 8
            return self._made({**self._buffers, "qdata": codes})
        if not torch.compiler.is_compiling() and any(
            getattr(self._joined, name) is not held for name, held in self._buffers.items()
        ):
            self._join()
        return self._joined

    def in_groups(self) -> Grouped | None:
        """The weight in the format of groups; None for floats of 8 bits and for what is laid out for CUDA."""
        if not self.packed and self.quant_type not in ("int8dq", "int8wo"):
            return None
        held = self._held()
        return as_grouped(held) if isinstance(held, Quantized) else held  # type: ignore[return-value]

    def activations(self) -> str | None:
        if self.quant_type == "int4dq" or not self._is_ours(self.qdata):
            return ROUNDING.get(self.quant_type)
        return dispatch.rounding(self._held(), self._wish, self.qdata.device)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if self.tiled and not rows.is_cuda:
            raise GearshiftError("These 4-bit weights of torchao are laid out for CUDA: move the model there.")
        if self._is_ours(rows):
            given = _in_8_bits(rows) if self.quant_type == "int4dq" else rows
            return dispatch.matmul(given, self._held(), self._wish)
        by_row = self.quant_type.startswith("fp8dq") and self.scale.numel() > 1  # CUDA answers those in bfloat16 only
        given = rows.to(torch.bfloat16 if by_row and rows.is_cuda else self.dtype)
        return self._theirs(given).to(rows.dtype)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        if self.tiled:
            one = torch.eye(self.in_features, dtype=torch.bfloat16, device=self.qdata.device)
            return self.product(one).t().to(dtype)
        return self.joined().dequantize().to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.quant_type}"

    def _is_ours(self, like: torch.Tensor) -> bool:
        """Whether gearshift multiplies where a tensor is."""
        return self.quant_type in OWN and like.device.type == "cpu"

    @property
    def _wish(self) -> dispatch.Wish:
        return dispatch.Wish(rounds=self.quant_type == "int8dq")

    def _held(self) -> Weight:
        """The weight as our own kernels take it."""
        if self.packed:
            scale, zero = self.scale.float(), self.zero_point.float() + 8
            return Grouped(self.qdata, scale, zero, 4, self.in_features // scale.shape[1], self.in_features)
        kind = Float8 if self.qdata.is_floating_point() else Quantized
        return kind(self.qdata, self.scale.flatten())

    def _hold(self, weight: Any) -> None:
        """Make one of torchao's tensors this layer's."""
        names, self.meaning = weight.__tensor_flatten__()
        for name in names:
            held = getattr(weight, name)
            self.register_buffer(name, pack((held + 8).to(torch.uint8), 4) if self._packs(name) else held)
        self._join()

    def _theirs(self, rows: torch.Tensor) -> torch.Tensor:
        """torchao's product; rows of zeros, which it would divide by zero, are left out of it."""
        if not self.quant_type.startswith("fp8dq"):
            return F.linear(rows, self.joined())
        peak = rows.abs().amax(-1, keepdim=True)
        empty = peak < EMPTY
        filled = torch.where(empty, peak.amax().clamp_min(EMPTY), rows)
        return F.linear(filled, self.joined()).masked_fill(empty, 0)

    def _packs(self, name: str) -> bool:
        return self.packed and name == "qdata"

    def _made(self, tensors: dict[str, Any]) -> Any:
        return self.kind.__tensor_unflatten__(tensors, self.meaning, None, None)

    def _join(self) -> None:
        self._joined = None if self.packed else self._made(self._buffers)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TorchaoLinear:
        super()._apply(fn, recurse)
        if "dtype" in self.meaning:
            self.meaning = {**self.meaning, "dtype": self.dtype}
        self._join()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        onednn.forget(self.qdata)
        self._join()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_joined": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join()


def _rounded(weight: torch.Tensor, quant_type: str, tiled: bool) -> Any:
    return _tiled(weight) if tiled else ROUNDED[quant_type](weight)


def group_of(in_features: int) -> int | None:
    """How many inputs share a scale at 4 bits; None: that many inputs cannot be divided so."""
    return next((group for group in GROUPS if in_features % group == 0), None)


def _in_8_bits(rows: torch.Tensor) -> torch.Tensor:
    """Each token rounded to 256 levels from its lowest to its highest value, zero among them, as torchao does."""
    exact = rows.float()
    low, high = exact.amin(-1, True).clamp_max(0), exact.amax(-1, True).clamp_min(0)
    step = usable((high - low) / 255)
    zero = (-low / step).round()
    return (((exact / step).round().add_(zero).clamp_(0, 255) - zero) * step).to(rows.dtype)


def _int8(weight: torch.Tensor, activations: bool) -> Any:
    rounding = workflows.QuantizeTensorToInt8Kwargs(granularity=ao.PerRow()) if activations else None
    return ao.Int8Tensor.from_hp(weight, ao.PerRow(), act_quant_kwargs=rounding)


def _int4(weight: torch.Tensor, activations: bool) -> Any:
    return ao.IntxUnpackedToInt8Tensor.from_hp(
        weight,
        (1, group_of(weight.shape[1])),
        torch.int4,
        mapping_type=ao.MappingType.ASYMMETRIC,
        activation_quantization="int8_asym_per_token" if activations else None,
    )


def _tiled(weight: torch.Tensor) -> Any:
    """4 bits in the layout of CUDA's kernel, which works in bfloat16; written from torchao's source, not run here."""
    return ao.Int4TilePackedTo4dTensor.from_hp(weight.to(torch.bfloat16), [1, group_of(weight.shape[1])])


def _float8(weight: torch.Tensor, activations: Any) -> Any:
    """Scales for each row of both, or one for each; for float activations one for each row of the weight."""
    empty = weight.abs().amax(-1, keepdim=True) < EMPTY
    if not weight.is_meta and bool(empty.any()):  # torchao divides by the largest value
        filled = torch.where(empty, weight.abs().amax().clamp_min(EMPTY), weight)
        made = _float8(filled, activations)
        made.qdata.view(torch.uint8).masked_fill_(empty, 0)
        return made
    if activations is None:
        return ao.Float8Tensor.from_hp(weight, granularity=ao.PerRow())
    from torchao.float8.inference import Float8MMConfig

    if weight.shape == (128, 128) or weight.shape[0] == 1:  # where torchao takes one scale for one by block or row
        activations = ao.PerRow()
    rounding = workflows.QuantizeTensorToFloat8Kwargs(torch.float8_e4m3fn, activations)
    config = Float8MMConfig(use_fast_accum=True)
    return ao.Float8Tensor.from_hp(weight, granularity=activations, mm_config=config, act_quant_kwargs=rounding)


ROUNDED: dict[str, Callable[[torch.Tensor], Any]] = {
    "int4dq": lambda weight: _int4(weight, activations=True),
    "int4wo": lambda weight: _int4(weight, activations=False),
    "int8dq": lambda weight: _int8(weight, activations=True),
    "int8wo": lambda weight: _int8(weight, activations=False),
    "fp8wo": lambda weight: _float8(weight, None),
    "fp8dq": lambda weight: _float8(weight, ao.PerTensor()),
    "fp8dqrow": lambda weight: _float8(weight, ao.PerRow()),
}
