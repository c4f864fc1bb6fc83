"""Int8 products of activations whose range was fixed beforehand: no pass over them to find it, and no scale per token.

On CPUs that add pairs of products in 16 bits (see quant/formats/int8.py), weights that could overflow are multiplied by
the codes in two parts, code = 2 * half + rest, so that the integers are exact everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from gearshift.kernels.cpu import onednn
from gearshift.kernels.cuda import int_mm
from gearshift.kernels.ops import needs_operator
from gearshift.quant.formats.fixed_range import CENTER, Fixed, encode, unfolded
from gearshift.quant.formats.int8 import Quantized, as_signed, column


def linear(
    x: torch.Tensor, quantized: Quantized, fixed: Fixed, shift: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x @ weight.T + bias for x [..., in] of any floating dtype, answered in that dtype; `shift` is from `offsets`."""
    run = _linear_op if needs_operator(x, bias) else _linear
    return run(x, *quantized, *fixed, shift, bias)


def conv2d(
    x: torch.Tensor,
    quantized: Quantized,
    fixed: Fixed,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    """A convolution of x [batch, in, height, width] or [in, height, width]; its one zero is what the border has."""
    if x.ndim == 3:
        return conv2d(x[None], quantized, fixed, bias, stride, padding)[0]
    run = _conv2d_op if needs_operator(x, bias) else _conv2d
    return run(x, *quantized, *fixed, bias, stride, padding)


def accumulate(codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(codes - 128) @ signed values.T in whole numbers, as float32 (exact up to 2 ** 24).

    Args:
        codes: uint8 [n, in], n >= 1, or int8, which stands for those 128 higher.
        values: int8 [out, in], or uint8, which stands for those less 128.
    """
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (_accumulate_op if tracing else _accumulate)(codes, values)


def _accumulate(codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    if codes.dtype == torch.int8:
        codes = codes.view(torch.uint8) ^ CENTER
    if codes.device.type == "cpu" and onednn.available():
        return _packed_product(codes, values, torch.ones(values.shape[0]))
    signed = as_signed(values)
    if int_mm.takes(codes, values):
        return torch._int_mm((codes ^ CENTER).view(torch.int8), signed.t()).float()
    return ((codes.double() - CENTER) @ signed.double().t()).float()


def linear_reference(
    x: torch.Tensor, quantized: Quantized, fixed: Fixed, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The linear product in plain torch: activations as the range reads them, weights as their bits do, in float64."""
    read = fixed.step.double() * (encode(x, fixed).double() - fixed.zero.double())
    y = read @ unfolded(quantized, fixed.step, torch.float64).t()
    return (y if bias is None else y + bias.double()).to(x.dtype)


def conv_reference(
    x: torch.Tensor,
    quantized: Quantized,
    fixed: Fixed,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    """The convolution likewise; also what devices without the kernels compute, but for the float64."""
    step = fixed.step[:, None, None] if fixed.step.ndim else fixed.step
    read = (step * (encode(x, fixed, images=True).float() - fixed.zero.float())).to(x.dtype)
    weight = unfolded(quantized, fixed.step, x.dtype)
    return F.conv2d(read, weight, None if bias is None else bias.to(x.dtype), stride, padding)


def _packed_product(
    codes: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    step: float = 1.0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """step * scale * (codes - 128) @ signed values.T + bias."""
    weight, _, none, levels = onednn.packed(values)
    rest: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")  # output, no post-op
    multiply = torch.ops.onednn.qlinear_pointwise
    if levels == onednn.FULL_LEVELS:
        return multiply(codes, step, CENTER, weight, scale, none, bias, *rest)
    y = multiply(codes & 1, step, CENTER, weight, scale, none, bias, *rest)
    return y.add_(multiply(codes >> 1, 2 * step, 0, weight, scale, none, None, *rest))


def _linear(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    step: torch.Tensor,
    zero: torch.Tensor,
    shift: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    out_features, in_features = values.shape
    rows = x.reshape(-1, in_features)
    if not rows.numel() or not values.numel():
        return x.new_zeros(*x.shape[:-1], out_features) + (0 if bias is None else bias.to(x.dtype))
    codes = encode(rows, Fixed(step, zero))
    unit: Any = 1.0 if step.ndim else step
    constant = shift * (-unit * scale)
    constant = constant if bias is None else constant + bias.float()
    if x.device.type == "cpu" and onednn.available():
        y = _packed_product(codes, values, scale, float(unit), constant)
    else:
        y = _accumulate(codes, values) * (unit * scale) + constant
    if zero_point is not None:
        sums = codes.sum(-1, dtype=torch.float32) - CENTER * in_features
        y.addr_(sums * unit, (CENTER - zero_point) * scale)
    return y.to(x.dtype).reshape(*x.shape[:-1], out_features)


def _conv2d(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    step: torch.Tensor,
    zero: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    fixed = Fixed(step, zero)
    if x.device.type != "cpu" or not onednn.available() or not x.numel():
        return conv_reference(x, Quantized(values, scale, zero_point), fixed, bias, stride, padding)
    weight, _, none, levels = onednn.packed(values)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    codes = encode(x, fixed, images=True).contiguous(memory_format=torch.channels_last)
    unit, center = 1.0 if step.ndim else float(step), int(zero)
    rest: tuple[Any, ...] = (stride, padding, [1, 1], 1, 1.0, 0, torch.float32, "none", [], "")  # as in onednn
    multiply = torch.ops.onednn.qconv_pointwise
    last = codes if levels == onednn.FULL_LEVELS else codes & 1
    y = multiply(last, unit, center, weight, scale, none, None if bias is None else bias.float(), *rest)
    if levels != onednn.FULL_LEVELS:
        y = y + multiply(codes >> 1, 2 * unit, 0, weight, scale, none, None, *rest)
    if zero_point is not None:
        sums = (codes.float().sum(1, keepdim=True) - center * x.shape[1]) * unit
        window = torch.ones(1, 1, *values.shape[2:])
        lack = column((CENTER - zero_point) * scale, values)[None, :, 0]
        y = torch.addcmul(y, F.conv2d(sums, window, None, stride, padding), lack)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return y.to(x.dtype).contiguous(memory_format=layout)


_accumulate_op = torch.library.custom_op("gearshift::static_int8_accumulate", _accumulate, mutates_args=())
_linear_op = torch.library.custom_op("gearshift::static_int8_linear", _linear, mutates_args=())
_conv2d_op = torch.library.custom_op("gearshift::static_int8_conv2d", _conv2d, mutates_args=())


@_accumulate_op.register_fake
def _(codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return codes.new_empty(codes.shape[0], values.shape[0], dtype=torch.float32)


@_linear_op.register_fake
def _(x: torch.Tensor, values: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


@_conv2d_op.register_fake
def _(x: torch.Tensor, values: torch.Tensor, *rest: Any) -> torch.Tensor:
    *_, stride, padding = rest
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return F.conv2d(x, x.new_empty(values.shape), None, stride, padding).contiguous(memory_format=layout)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, values, scale, zero_point, step, _, *others = inputs
    ctx.save_for_backward(values, scale, zero_point, step)
    ctx.x_shape, ctx.others = x.shape, others


def _weight(ctx: Any, dtype: torch.dtype) -> torch.Tensor:
    values, scale, zero_point, step = ctx.saved_tensors
    return unfolded(Quantized(values, scale, zero_point), step, dtype)


def _linear_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    to_x = grad @ _weight(ctx, grad.dtype) if ctx.needs_input_grad[0] else None
    to_bias = grad.flatten(0, -2).sum(0).to(ctx.others[-1].dtype) if ctx.needs_input_grad[7] else None
    return *([to_x] + [None] * 6), to_bias


def _conv2d_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    bias, *shape = ctx.others
    weight = _weight(ctx, grad.dtype)
    to_x = torch.nn.grad.conv2d_input(ctx.x_shape, weight, grad, *shape) if ctx.needs_input_grad[0] else None
    to_bias = grad.sum((0, 2, 3)).to(bias.dtype) if ctx.needs_input_grad[6] else None
    return *([to_x] + [None] * 5), to_bias, None, None


_linear_op.register_autograd(_linear_backward, setup_context=_keep)
_conv2d_op.register_autograd(_conv2d_backward, setup_context=_keep)
