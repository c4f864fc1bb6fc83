"""Which kernel multiplies a weight: one table of what each takes, why not, and where it was measured to be fast.

A layer asks for the product of rows with a weight in some format, whichever algorithm made it, and the first kernel of
the table takes it that is for the device, for so many rows, and lacks nothing. How many rows is
from timing it beside torch's float product at the widths of a small language model (576, 1536) on an x86 CPU with AVX2;
what is said of CPUs with VNNI is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from gearshift.kernels.cpu import onednn, weight_only
from gearshift.kernels.cpu.arithmetic import has_arithmetic
from gearshift.kernels.cuda import flute, fp8, int4, int_mm
from gearshift.quant.formats import weights
from gearshift.quant.formats.float8 import Float8
from gearshift.quant.formats.gaussian_grid import Pairs
from gearshift.quant.formats.grouped import Grouped
from gearshift.quant.formats.int8 import Quantized
from gearshift.quant.formats.weights import FORMATS, Weight, dequantize

TILE = 1 << 20  # weights that are floats at a time
TOKENS = "to 8 bits, token by token"
FLOAT8_TOKENS = "to 8-bit floats, token by token"
VERSION = 2  # of the operators' names and arguments, which compiled programs hold


class Wish(NamedTuple):
    """What a layer asks besides the product.

    Attributes:
        rounds: it may round activations to 8 bits token by token, as its algorithm does.
        backend: name of a kernel for CUDA in `int4.BACKENDS`.
        rows: that FLUTE's kernel is tuned for; 0: it is not asked for.
    """

    rounds: bool = False
    backend: str | None = None
    rows: int = 0


PLAIN = Wish()


class Kernel(NamedTuple):
    """A row of the table.

    Attributes:
        name: in words.
        device: type of device; None: any.
        lacks: why it cannot serve a weight and a wish, in words; None if it can.
        multiply: rows [n >= 1, in] of any floating dtype @ weight.T + bias, answered in that dtype or in float32.
        fits: whether it is fast, or there at all, for so many rows.
        rounds: how it rounds activations, in words; None if it takes them as they come.
        range: for how many rows it is, in words.
    """

    name: str
    device: str | None
    lacks: Callable[[Weight, Wish], str | None]
    multiply: Callable[[torch.Tensor, Any, torch.Tensor | None, Wish], torch.Tensor]
    fits: Callable[[torch.Tensor, Wish], bool] = lambda rows, wish: True
    rounds: Callable[[Any], str | None] = lambda weight: None
    range: str = ""


def matmul(rows: torch.Tensor, weight: Weight, wish: Wish = PLAIN) -> torch.Tensor:
    """rows [n >= 1, in] @ weight.T in the rows' floating dtype, by the first kernel of the table that serves."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        name = next(name for name, kind in FORMATS.items() if isinstance(weight, kind))
        first, scale, *rest = weight
        third = rest.pop(0) if rest and not isinstance(rest[0], int) else None
        return _matmul_op(rows, first, scale, third, rest, name, *wish)
    return matmul_now(rows, weight, None, wish)


def matmul_now(rows: torch.Tensor, weight: Weight, bias: torch.Tensor | None, wish: Wish) -> torch.Tensor:
    """The same plus a bias [out], for what is in an operator already."""
    return kernel_for(rows, weight, wish).multiply(rows, weight, bias, wish).to(rows.dtype)


def kernel_for(rows: torch.Tensor, weight: Weight, wish: Wish = PLAIN) -> Kernel:
    """The kernel that serves so many rows."""
    device = rows.device.type
    for kernel in KERNELS:
        if kernel.device in (None, device) and kernel.fits(rows, wish) and kernel.lacks(weight, wish) is None:
            return kernel
    raise AssertionError("the last kernel takes everything")


def able(weight: Weight, wish: Wish, device: torch.device) -> Iterator[Kernel]:
    """The kernels that serve a weight on a device for some number of rows."""
    for kernel in KERNELS:
        if kernel.device in (None, device.type) and kernel.lacks(weight, wish) is None:
            yield kernel


def rounding(weight: Weight, wish: Wish, device: torch.device) -> str | None:
    """How activations are rounded beside a weight, in words; None if they are not, whatever the rows."""
    for kernel in able(weight, wish, device):
        how = kernel.rounds(weight)
        if how is not None:
            return how + kernel.range
    return None


def why_not(weight: Weight, wish: Wish, device: torch.device) -> dict[str, str]:
    """Why the other kernels do not serve a weight there, by their names."""
    found = {}
    for kernel in KERNELS:
        missing = kernel.lacks(weight, wish)
        if kernel.device not in (None, device.type):
            found[kernel.name] = f"it is for {kernel.device}"
        elif missing is not None:
            found[kernel.name] = missing
    return found


def in_tiles(rows: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Float products with one tile of the weight after another; in float32 where a CPU has no arithmetic of a type."""
    on_cpu = rows.device.type == "cpu"
    given = rows.float() if on_cpu and not has_arithmetic(rows.dtype) else rows
    own = on_cpu and given.dtype == torch.float32
    parts = weights.channel_runs(weight, TILE)
    products = [F.linear(given, weight_only.unpack(p) if own else dequantize(p, given.dtype)) for p in parts]
    return products[0] if len(products) == 1 else torch.cat(products, -1)


def _then_bias(multiply: Callable[[torch.Tensor, Any, Wish], torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(rows: torch.Tensor, weight: Any, bias: torch.Tensor | None, wish: Wish) -> torch.Tensor:
        y = multiply(rows, weight, wish)
        return y if bias is None else y.add_(bias)

    return run


def _only(kind: type, words: str) -> Callable[[Weight, Wish], str | None]:
    return lambda weight, wish: None if isinstance(weight, kind) else f"it multiplies {words}"


def _rounds_tokens(weight: Weight, wish: Wish) -> str | None:
    if not isinstance(weight, Quantized):
        return "it multiplies 8-bit whole numbers"
    return None if wish.rounds else "it rounds activations token by token, which was not asked for"


def _lacks_onednn(weight: Weight, wish: Wish) -> str | None:
    missing = None if onednn.available() else "this machine has no oneDNN"
    return missing or _rounds_tokens(weight, wish)


def _lacks_int_mm(weight: Weight, wish: Wish) -> str | None:
    return _rounds_tokens(weight, wish) or int_mm.odd_sizes(weight.values)  # type: ignore[union-attr]


def _lacks_fp8(weight: Weight, wish: Wish) -> str | None:
    return fp8.unsupported(weight.values) if isinstance(weight, Float8) else "it multiplies 8-bit floats"


def _lacks_flute(weight: Weight, wish: Wish) -> str | None:
    if not isinstance(weight, Pairs) or not wish.rows:
        return "it multiplies pairs of numbers from a table, rotated"
    return None if flute.INSTALLED else "the package flute is not installed"


def _lacks_integers(weight: Weight, wish: Wish) -> str | None:
    return weight_only.lacks_rounded(weight)


def _lacks_widened(weight: Weight, wish: Wish) -> str | None:
    return weight_only.lacks_widened(weight)


INTEGERS = 8  # rows up to which whole numbers serve: rounding what a prompt makes showed in the answers of a real model
WIDENED = 16  # likewise without rounding activations
DYNAMIC = 8  # rows from which rounding activations token by token pays on CPUs without VNNI; half of that with it

KERNELS = (
    Kernel(
        "whole numbers, activations in runs",
        "cpu",
        _lacks_integers,
        _then_bias(lambda rows, weight, wish: weight_only.multiply_rounded(rows, weight)),
        lambda rows, wish: rows.shape[0] <= INTEGERS and rows.dtype != torch.float64,
        lambda weight: f"to 8 bits, in groups of {min(weight.group, weight_only.RUN)}",
        f", for up to {INTEGERS} tokens at a time",
    ),
    Kernel(
        "oneDNN",
        "cpu",
        _lacks_onednn,
        lambda rows, weight, bias, wish: onednn.linear(rows, weight, bias),
        lambda rows, wish: rows.shape[0] > (DYNAMIC if onednn.saturates() else DYNAMIC // 2),
        lambda weight: TOKENS,
        ", for more than a few tokens at a time",
    ),
    Kernel(
        "widened in registers",
        "cpu",
        _lacks_widened,
        _then_bias(lambda rows, weight, wish: weight_only.multiply_widened(rows, weight)),
        lambda rows, wish: rows.shape[0] <= WIDENED and rows.dtype != torch.float64,
    ),
    Kernel(
        "torch._int_mm",
        "cuda",
        _lacks_int_mm,
        lambda rows, weight, bias, wish: int_mm.linear(rows, weight, bias),
        lambda rows, wish: rows.shape[0] > int_mm.ROWS,
        lambda weight: TOKENS,
    ),
    Kernel(
        "torch._scaled_mm",
        "cuda",
        _lacks_fp8,
        _then_bias(lambda rows, weight, wish: fp8.scaled_product(rows, *weight)),
        rounds=lambda weight: FLOAT8_TOKENS,
    ),
    Kernel(
        "FLUTE",
        "cuda",
        _lacks_flute,
        _then_bias(lambda rows, weight, wish: flute.multiply(rows, *weight, wish.rows)),
        lambda rows, wish: flute.serves(rows, wish.rows),
    ),
    Kernel(
        "kernels for 4 bits",
        "cuda",
        _only(Grouped, "weights in groups"),
        _then_bias(lambda rows, weight, wish: int4.product(rows, weight, wish.backend)),
    ),
    Kernel(
        "widened in tiles",
        None,
        lambda weight, wish: None,
        _then_bias(lambda rows, weight, wish: in_tiles(rows, weight)),
    ),
)


def _matmul(
    rows: torch.Tensor,
    first: torch.Tensor,
    scale: torch.Tensor,
    third: torch.Tensor | None,
    numbers: list[int],
    format: str,
    rounds: bool,
    backend: str | None,
    tuned: int,
) -> torch.Tensor:
    return matmul_now(rows, _joined(first, scale, third, numbers, format), None, Wish(rounds, backend, tuned))


def _joined(
    first: torch.Tensor, scale: torch.Tensor, third: torch.Tensor | None, numbers: list[int], format: str
) -> Weight:
    kind = FORMATS[format]
    return kind(*([first, scale, third][: len(kind._fields) - len(numbers)]), *numbers)  # type: ignore[arg-type]


_matmul_op = torch.library.custom_op("gearshift::matmul", _matmul, mutates_args=())


@_matmul_op.register_fake
def _(rows: torch.Tensor, first: torch.Tensor, *rest: Any) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], first.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, first, scale, third, *rest = inputs
    ctx.save_for_backward(first, scale, third)
    ctx.rest = rest[:2]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return grad @ dequantize(_joined(*ctx.saved_tensors, *ctx.rest), grad.dtype), *[None] * 8


_matmul_op.register_autograd(_backward, setup_context=_keep)
