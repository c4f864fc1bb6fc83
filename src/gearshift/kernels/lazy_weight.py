"""A float tensor that is only computed when something is done with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map


class LazyWeight(torch.Tensor):
    """The dequantized weight of a quantized layer, which costs nothing while only its dtype, shape or device are read.

    T5 and several diffusers models cast activations to `layer.weight.dtype` in every forward pass: that has to be a
    floating dtype, or the activations would be cast to integers, and reading it must not dequantize. Any operation
    dequantizes anew. Writing raises: what is written would be lost.
    """

    compute: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(
        cls, compute: Callable[[], torch.Tensor], shape: torch.Size, dtype: torch.dtype, device: torch.device
    ) -> LazyWeight:
        weight = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        weight.compute = compute
        return weight

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:  # .data: still not a place to write to
            lazy = args[0]
            return LazyWeight(lazy.compute, lazy.shape, lazy.dtype, lazy.device)
        places = zip(args, func._schema.arguments, strict=False)
        if any(isinstance(a, LazyWeight) and place.alias_info and place.alias_info.is_write for a, place in places):
            raise RuntimeError(
                "The weight of a quantized layer is read-only: it is computed from fewer bits anew at each use. "
                "Change the weight of the float layer, and quantize that."
            )
        args, kwargs = tree_map(_computed, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyWeight:
        return LazyWeight(copy.deepcopy(self.compute, memo), self.shape, self.dtype, self.device)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"LazyWeight(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"


def _computed(leaf: Any) -> Any:
    return leaf.compute() if isinstance(leaf, LazyWeight) else leaf
