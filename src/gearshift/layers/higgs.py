"""A linear layer whose weight is rotated and rounded two numbers at a time (HIGGS, arXiv 2411.17525)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.kernels import dispatch
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats import gaussian_grid, hadamard


class HiggsLinear(QuantizedLinear):
    """nn.Linear on codes of 4, 6 or 8 bits for every two numbers of the rotated weight.

    Either the activations are rotated as well, or, where they are more rows than the weight has, the rotation is taken
    back in the weight: the products are the same.

    Attributes:
        codes: uint8 [out, in * bits / 8], see `gaussian_grid`.
        scale: float16 [out, groups], or float32 where float16 cannot hold them.
        signs: uint8 [in / 8], the rotation's.
        table: float32 [4 ** bits, 2], the same for all layers and not in the state dict.
        bits: of a weight: 2, 3 or 4.
        p: 2 if two numbers were rounded together, 1 if each by itself.
        block: size of the Hadamard matrix.
        group: numbers of a row that share a scale.
        rows: of activations that FLUTE's kernel is tuned for.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    signs: torch.Tensor
    table: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bits: int = 4,
        p: int = 2,
        block: int = 64,
        group: int = 64,
        rows: int = 1,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.bits, self.p, self.block, self.group, self.rows = bits, p, block, group, rows
        width = gaussian_grid.packed_width(in_features, bits)
        self.register_buffer("codes", torch.zeros(out_features, width, dtype=torch.uint8, device=device))
        scale = torch.zeros(out_features, in_features // group, dtype=torch.float16, device=device)
        self.register_buffer("scale", scale)
        self.register_buffer("signs", torch.zeros(in_features // 8, dtype=torch.uint8, device=device))
        table = gaussian_grid.pairs(bits, p)
        self.register_buffer("table", table if _without_storage(device) else table.to(device), persistent=False)

    @classmethod
    def from_float(  # type: ignore[override]
        cls,
        linear: nn.Linear,
        bits: int = 4,
        p: int = 2,
        most_group: int = 256,
        most_block: int = 1024,
        rows: int = 1,
        seed: int = 0,
    ) -> HiggsLinear | None:
        """Quantize a float layer, which stays as it was; None if no block of 8 or more divides its inputs."""
        weight = linear.weight.detach()
        in_features = weight.shape[1]
        block = hadamard.block_size(in_features, most_block)
        if block is None:
            return None
        group = group_size(in_features, most_group)
        layer = cls.empty_like(linear, bits=bits, p=p, block=block, group=group, rows=rows)
        layer.signs = hadamard.random_signs(in_features, seed).to(weight.device)
        layer.table = layer.table.to(weight.device)
        layer.quantize(weight)
        layer.take(linear)
        return layer

    def format(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("bits", "p", "block", "group", "rows")}

    def quantize(self, weight: torch.Tensor) -> None:
        rotated = hadamard.rotate(weight.detach().float(), self.signs, self.block)
        codes, self.scale = gaussian_grid.fit(rotated.unflatten(1, (-1, self.group)), self.bits, self.p)
        self.codes = gaussian_grid.pack(codes.flatten(1), self.bits)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.shape[0] > self.out_features:
            return F.linear(rows, self.dequantized(rows.dtype))
        rotated = hadamard.rotate(rows, self.signs, self.block)
        return dispatch.matmul(rotated, self.pairs, dispatch.Wish(rows=self.rows))

    @property
    def pairs(self) -> gaussian_grid.Pairs:
        """The rotated weight."""
        return gaussian_grid.Pairs(self.codes, self.scale, self.table, self.bits)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return hadamard.rotate_back(gaussian_grid.numbers(*self.pairs, dtype), self.signs, self.block)

    def extra_repr(self) -> str:
        kind = f"bits={self.bits}, p={self.p}, block={self.block}, group={self.group}"
        return f"{super().extra_repr()}, {kind}"


def group_size(width: int, most: int) -> int:
    """The largest multiple of 8 up to `most` that divides `width`, which is a multiple of 8 itself."""
    return max(n for n in range(8, most + 1, 8) if width % n == 0)


def _without_storage(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"
