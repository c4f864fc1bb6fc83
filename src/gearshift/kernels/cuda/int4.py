"""Products with grouped weights on CUDA: by torch's int4 kernel, or by packages that have such kernels.

Written from what the packages document and not run here: so each kernel has to answer like the plain product on a few
rows before it is used, and where it does not, the plain product stays. Their layouts of a weight are made at first use
and kept beside its codes; they are never saved.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from gearshift.core.errors import GearshiftWarning, told
from gearshift.core.extras import installed
from gearshift.kernels.derived import Derived
from gearshift.quant.formats.grouped import Grouped, dequantize, multiply, unpack

CLOSE = 0.03  # relative error that 16-bit arithmetic may make
TILES = 8  # of 16 inputs, that torch's kernel reads at a time

Product = Callable[[torch.Tensor], torch.Tensor]


class Backend(NamedTuple):
    """A kernel.

    Attributes:
        package: that it is in; None for torch's own.
        dtype: of the rows it takes.
        bits, groups: that it has.
        make: rows [n, in] @ weight.T for a weight.
    """

    package: str | None
    dtype: torch.dtype
    bits: tuple[int, ...]
    groups: tuple[int, ...]
    make: Callable[[Grouped], Product]

    def lacks(self, bits: int, group: int) -> str | None:
        """Why it cannot serve weights of this kind here, in words; None if it can."""
        if bits not in self.bits or group not in self.groups:
            wide, wise = " or ".join(map(str, self.bits)), ", ".join(map(str, self.groups))
            return f"it multiplies {wide} bits in groups of {wise}, and not {bits} in groups of {group}"
        if not torch.cuda.is_available():
            return "it needs a CUDA device, and there is none"
        if self.package and not installed(self.package):
            return f"the package {self.package} is not installed"
        return None


def product(rows: torch.Tensor, grouped: Grouped, backend: str | None) -> torch.Tensor:
    """rows [n, in] @ weight.T in the rows' floating type: by a kernel, or plainly where there is none for it.

    Args:
        backend: a name in BACKENDS; None: torch's kernel, if the rows are bfloat16 already.
    """
    run = _product_op if torch.compiler.is_compiling() else _product
    return run(rows, *grouped, backend)


def _product(
    rows: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    bits: int,
    group: int,
    width: int,
    backend: str | None,
) -> torch.Tensor:
    grouped, kernel = Grouped(codes, scale, zero, bits, group, width), BACKENDS[backend or "torchao_int4"]
    asked = backend is not None or rows.dtype == kernel.dtype
    made = None
    if asked and width % group == 0 and kernel.lacks(bits, group) is None:
        name = backend or "torch"
        made = _kept.get(codes, lambda: _proven(grouped, kernel, name), name)
    return multiply(rows, grouped) if made is None else made(rows.to(kernel.dtype)).to(rows.dtype)


_product_op = torch.library.custom_op("gearshift::grouped_product", _product, mutates_args=())


@_product_op.register_fake
def _(rows: torch.Tensor, codes: torch.Tensor, *rest: Any) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], codes.shape[0])


_kept = Derived()


@torch.no_grad()
def _proven(grouped: Grouped, kernel: Backend, name: str) -> Product | None:
    """The kernel for a weight, if it answers like the plain product."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(3, grouped.width, generator=draw).to(grouped.codes.device, kernel.dtype)
    wanted = F.linear(rows.float(), dequantize(grouped))
    try:
        made = kernel.make(grouped)
        off = float((made(rows).float() - wanted).norm() / wanted.norm().clamp_min(1e-30))
        problem = "" if off < CLOSE else f"answers with a relative error of {off:.2g}"
    except Exception as error:
        problem = f"fails: {told(error)}"
    if problem:
        warnings.warn(f"The kernel {name} {problem}; the plain product is used.", GearshiftWarning, stacklevel=2)
        return None
    return made


def _torch_int4(grouped: Grouped) -> Product:
    """weight = (code - 8) * scale + shift, in bfloat16; two codes a byte, the first in the high half."""
    codes, scale, _ = _parts(grouped, torch.bfloat16)
    packed = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).contiguous(), TILES)
    shift = scale * (8 - grouped.zero.float())
    steps = torch.stack([scale, shift.to(scale.dtype)], -1).transpose(0, 1).contiguous()
    return lambda rows: torch.ops.aten._weight_int4pack_mm(rows, packed, grouped.group, steps)


def _gemlite(grouped: Grouped) -> Product:
    from gemlite.core import DType, GemLiteLinearTriton

    codes, scale, zero = _parts(grouped, torch.float16)
    sizes = {"group_size": grouped.group, "in_features": grouped.width, "out_features": codes.shape[0]}
    layer = GemLiteLinearTriton(grouped.bits, **sizes, input_dtype=DType.FP16, output_dtype=DType.FP16)
    layer.pack(codes, scale.reshape(-1, 1), zero.reshape(-1, 1), None)
    return layer


def _bitblas(grouped: Grouped) -> Product:
    import bitblas

    codes, scale, zero = _parts(grouped, torch.float16)
    half = dict.fromkeys(("A_dtype", "accum_dtype", "out_dtype"), "float16")
    kinds = {"W_dtype": f"uint{grouped.bits}", "layout": "nt", "group_size": grouped.group}
    grid = {"with_scaling": True, "with_zeros": True, "zeros_mode": "original", "with_bias": False}
    config = bitblas.MatmulConfig(M=[1, 16, 256], N=codes.shape[0], K=grouped.width, **half, **kinds, **grid)
    kernel = bitblas.Matmul(config=config)
    packed = kernel.transform_weight(codes.to(torch.int8))
    return lambda rows: kernel(rows, packed, scale=scale, zeros=zero)


def _marlin(grouped: Grouped) -> Product:
    """Its weights are symmetric, (code - 8) * scale: the rest is a product with the sums of the groups of inputs."""
    import marlin

    codes, scale, zero = _parts(grouped, torch.float16)
    device, out = codes.device, codes.shape[0]
    float_layer = torch.nn.Linear(grouped.width, out, bias=False, dtype=torch.float16, device=device)
    float_layer.weight.data = dequantize(grouped._replace(zero=torch.full_like(grouped.zero, 8)), torch.float16)
    layer = marlin.Layer(grouped.width, out, groupsize=grouped.group).to(device)
    layer.pack(float_layer, scale)
    shift = (scale.float() * (8 - zero.float())).half()

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        sums = rows.unflatten(-1, (-1, grouped.group)).sum(-1)
        return layer(rows) + F.linear(sums, shift)

    return multiply


def _parts(grouped: Grouped, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes uint8 [out, in], one a byte; scale and zero."""
    codes = unpack(grouped.codes, grouped.bits, grouped.width)
    return codes.contiguous(), grouped.scale.to(dtype), grouped.zero.to(dtype)


GROUPS = (32, 64, 128)
BACKENDS = {
    "torchao_int4": Backend(None, torch.bfloat16, (4,), (*GROUPS, 256), _torch_int4),
    "gemlite": Backend("gemlite", torch.float16, (2, 4, 8), (16, *GROUPS), _gemlite),
    "bitblas": Backend("bitblas", torch.float16, (2, 4), GROUPS, _bitblas),
    "marlin": Backend("marlin", torch.float16, (4,), (128,), _marlin),
}
