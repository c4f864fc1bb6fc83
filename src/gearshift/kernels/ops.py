"""The int8 products as operators: the fastest path that the device has, gradients for input and bias, one graph node.

Compiled and exported programs call them by name, `gearshift::int8_linear` and `gearshift::int8_conv2d`, so the packed
weights never enter a graph. Eager calls without gradients skip the operator, which costs tens of microseconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from gearshift.kernels import dispatch
from gearshift.kernels.cpu import onednn
from gearshift.quant.formats.int8 import Quantized, dequantize


def linear(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """x @ weight.T + bias, x [..., in] of any floating dtype, answered in that dtype."""
    run = _linear_op if needs_operator(x, bias) else _linear
    return run(x, *quantized, bias)


def conv2d(
    x: torch.Tensor,
    quantized: Quantized,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    """A convolution of x [batch, in, height, width] or [in, height, width], answered in x's dtype."""
    if x.ndim == 3:
        return conv2d(x[None], quantized, bias, stride, padding)[0]
    run = _conv2d_op if needs_operator(x, bias) else _conv2d
    return run(x, *quantized, bias, stride, padding)


def needs_operator(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _linear(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    if not x.numel() or not values.numel():
        return x.new_zeros(*x.shape[:-1], values.shape[0]) + (0 if bias is None else bias.to(x.dtype))
    rows = x.reshape(-1, x.shape[-1])
    y = dispatch.matmul_now(rows, Quantized(values, scale, zero_point), bias, dispatch.Wish(rounds=True))
    return y.reshape(*x.shape[:-1], -1)


def _conv2d(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
) -> torch.Tensor:
    quantized = Quantized(values, scale, zero_point)
    if x.device.type == "cpu" and onednn.available() and x.numel():
        return onednn.conv2d(x, quantized, bias, stride, padding)
    weight = dequantize(quantized, x.dtype)
    return F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), stride, padding)


_linear_op = torch.library.custom_op("gearshift::int8_linear", _linear, mutates_args=())
_conv2d_op = torch.library.custom_op("gearshift::int8_conv2d", _conv2d, mutates_args=())


@_linear_op.register_fake
def _(x: torch.Tensor, values: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


@_conv2d_op.register_fake
def _(
    x: torch.Tensor, values: torch.Tensor, scale: Any, zero_point: Any, bias: Any, stride: list[int], padding: list[int]
) -> torch.Tensor:
    sides = [
        (side + 2 * pad - kernel) // step + 1
        for side, pad, kernel, step in zip(x.shape[2:], padding, values.shape[2:], stride, strict=True)
    ]
    return x.new_empty(x.shape[0], values.shape[0], *sides)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, values, scale, zero_point, bias, *shape = inputs
    ctx.save_for_backward(values, scale, zero_point)
    ctx.x_shape, ctx.bias_dtype, ctx.shape = x.shape, None if bias is None else bias.dtype, shape


def _linear_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    values, scale, zero_point = ctx.saved_tensors
    weight = dequantize(Quantized(values, scale, zero_point), grad.dtype)
    to_x = grad @ weight if ctx.needs_input_grad[0] else None
    to_bias = grad.flatten(0, -2).sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[4] else None
    return to_x, None, None, None, to_bias


def _conv2d_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    values, scale, zero_point = ctx.saved_tensors
    weight = dequantize(Quantized(values, scale, zero_point), grad.dtype)
    to_x = torch.nn.grad.conv2d_input(ctx.x_shape, weight, grad, *ctx.shape) if ctx.needs_input_grad[0] else None
    to_bias = grad.sum((0, 2, 3)).to(ctx.bias_dtype) if ctx.needs_input_grad[4] else None
    return to_x, None, None, None, to_bias, None, None


_linear_op.register_autograd(_linear_backward, setup_context=_keep)
_conv2d_op.register_autograd(_conv2d_backward, setup_context=_keep)
