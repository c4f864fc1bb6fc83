"""Layers that other programs quantized: GPTQ's and AWQ's tensors and compressed-tensors' packed integers, unpacked.

They pack codes end to end into little-endian 32-bit words, one input channel after the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from gearshift.core.boundary import Misfit
from gearshift.models.packing import AWQ_BITS, AWQ_ORDER
from gearshift.quant.formats.grouped import Grouped, assemble

State = Mapping[str, torch.Tensor]

BITS = (2, 3, 4, 8)
NEAR = 0.3  # of a code: how near to 0 or 1 the mean distance of codes and zeros has to be, and three times its error


def from_gptq(parts: State, path: str, size: tuple[int, int], bits: int, group: int, plus: int = 1) -> Grouped:
    """qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32], scales [groups, out], g_idx [in].

    Args:
        size: (out, in) of the layer.
        group: -1: one group.
        plus: what is added to the zeros; the format's first version keeps them less one, so that 0 wraps around.

    Raises:
        Misfit: for tensors of other shapes or types, or if the inputs of a group are not neighbors.
    """
    out, width = size
    group = width if group == -1 else group
    groups = -(-width // group)
    _check(parts, path, "qweight", (-(-width * bits // 32), out), torch.int32)
    _check(parts, path, "qzeros", (groups, -(-out * bits // 32)), torch.int32)
    _check(parts, path, "scales", (groups, out))
    codes = unpack_words(parts["qweight"].T, bits)[:, :width]
    if "g_idx" in parts:
        _check(parts, path, "g_idx", (width,), torch.int32)
        if not torch.equal(parts["g_idx"].long(), torch.arange(width) // group):
            raise Misfit(f"{path} was quantized in the order of its activations, with groups that are not neighbors")
    zero = unpack_words(parts["qzeros"], bits)[:, :out].T.int() + plus & 2**bits - 1
    return _assembled(codes, parts["scales"].T, zero.float(), bits, group)


def from_packed(parts: State, path: str, size: tuple[int, int]) -> Grouped:
    """weight_packed int32 [out, in * bits / 32], weight_scale [out, groups], weight_shape; weight_zero_point or none.

    Raises:
        Misfit: as `from_gptq`.
    """
    out, width = size
    told = parts.get("weight_shape")
    if told is None or told.is_floating_point() or told.flatten().tolist() != [out, width]:
        raise Misfit(f"{path}.weight_shape is not that of its layer, {out} x {width}")
    packed, scale = parts.get("weight_packed"), parts.get("weight_scale")
    words = packed.shape[1] if packed is not None and packed.ndim == 2 else 0
    bits = next((b for b in BITS if words == -(-width * b // 32)), None)
    if bits is None:
        raise Misfit(f"{path}.weight_packed does not hold {width} codes of {', '.join(map(str, BITS))} bits in a row")
    assert packed is not None
    groups = scale.shape[1] if scale is not None and scale.ndim == 2 and scale.shape[1] else 1
    group = -(-width // groups)
    _check(parts, path, "weight_packed", (out, words), torch.int32)
    _check(parts, path, "weight_scale", (out, -(-width // group)))
    if "weight_g_idx" in parts and bool((parts["weight_g_idx"].diff() < 0).any()):
        raise Misfit(f"{path} was quantized in the order of its activations, with groups that are not neighbors")
    zero = torch.full(parts["weight_scale"].shape, 2.0 ** (bits - 1))
    if "weight_zero_point" in parts:
        _check(parts, path, "weight_zero_point", (-(-out * bits // 32), groups), torch.int32)
        zero = unpack_words(parts["weight_zero_point"].T, bits)[:, :out].T.float()
    return _assembled(unpack_words(packed, bits)[:, :width], parts["weight_scale"], zero, bits, group)


def from_awq(parts: State, path: str, size: tuple[int, int], group: int) -> Grouped:
    """qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales [groups, out], in AWQ's order; 4 bits.

    Args:
        group: -1: one group.

    Raises:
        Misfit: for tensors of other shapes or types.
    """
    out, width = size
    group = width if group == -1 else group
    groups = -(-width // group)
    _check(parts, path, "qweight", (width, out // 8), torch.int32)
    _check(parts, path, "qzeros", (groups, out // 8), torch.int32)
    _check(parts, path, "scales", (groups, out))
    codes, zero = (_in_order(unpack_words(parts[name], AWQ_BITS)) for name in ("qweight", "qzeros"))
    return _assembled(codes.T.contiguous(), parts["scales"].T, zero.T.float(), AWQ_BITS, group)


def _in_order(numbers: torch.Tensor) -> torch.Tensor:
    """Output channels in their order, of numbers [n, out] in AWQ's."""
    back = sorted(range(len(AWQ_ORDER)), key=AWQ_ORDER.__getitem__)
    return numbers.unflatten(1, (-1, len(AWQ_ORDER)))[..., back].flatten(1)


def zeros_less_one(layers: Iterable[State], bits: int) -> bool | None:
    """Whether GPTQ's zeros are kept less one, as the layers themselves show; None if they do not.

    A symmetric quantizer's zeros are all the middle code. Else weights are about zero in the mean, so that a layer's
    mean code is its mean zero: a shift by one is seen where it is large beside what layers differ in.
    """
    middle, seen, gaps = 2 ** (bits - 1), set(), []
    for parts in layers:
        if {"qweight", "qzeros", "scales"} <= parts.keys():
            zeros = unpack_words(parts["qzeros"].int(), bits)[:, : parts["scales"].shape[-1]].float()
            codes = unpack_words(parts["qweight"].T.int(), bits)[:, : len(parts.get("g_idx", "")) or None].float()
            seen |= {float(zeros.min()), float(zeros.max())}
            gaps.append(float(codes.mean() - zeros.mean()))
    if seen in ({middle - 1.0}, {float(middle)}):
        return seen == {middle - 1.0}
    gap = statistics.fmean(gaps) if len(gaps) > 1 else 0.5
    sure = len(gaps) > 1 and 3 * statistics.stdev(gaps) / len(gaps) ** 0.5 < NEAR
    return round(gap) == 1 if sure and min(abs(gap), abs(gap - 1)) < NEAR else None


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The unsigned numbers of so many bits that lie end to end in int32 words [n, words]: uint8 [n, numbers]."""
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    single = (octets[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)
    whole = single[:, : single.shape[1] // bits * bits].unflatten(1, (-1, bits))
    return (whole << torch.arange(bits, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def _check(parts: State, path: str, name: str, shape: tuple[int, ...], dtype: Any = None) -> None:
    """Raise Misfit unless a tensor is there, of this shape and type, finite if it is floating."""
    tensor = parts.get(name)
    if tensor is None:
        raise Misfit(f"{path}.{name} is missing")
    if tuple(tensor.shape) != shape:
        raise Misfit(f"{path}.{name} has the shape {tuple(tensor.shape)}, and its layer needs {shape}")
    fits = tensor.is_floating_point() if dtype is None else tensor.dtype == dtype
    if not fits:
        raise Misfit(f"{path}.{name} is of type {tensor.dtype}, not {dtype or 'floating point'}")
    if dtype is None and not bool(tensor.float().isfinite().all()):
        raise Misfit(f"{path}.{name} has values that are not finite")


def _assembled(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, group: int) -> Grouped:
    dtype = torch.float16 if scale.dtype == torch.float16 else torch.float32
    return assemble(codes, scale.to(dtype).contiguous(), zero.to(dtype).contiguous(), bits, group)
