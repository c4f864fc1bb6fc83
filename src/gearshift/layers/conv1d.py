"""Layers of few bits in the place of transformers' Conv1D (GPT-2), a linear layer whose weight is written [in, out]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from gearshift.layers.base import QuantizedLayer
from gearshift.layers.lazy_weight import Source


class QuantizedConv1D(QuantizedLayer, Conv1D):
    """A quantized linear layer seen as a Conv1D: its tensors under the same names, its `weight` turned.

    A Conv1D and no nn.Linear, so that adapters (peft) turn what they merge into it.

    Attributes:
        linear: the linear layer, which is no submodule: state dicts and `modules()` show this layer alone.
    """

    def __init__(self, linear: QuantizedLayer) -> None:
        nn.Module.__init__(self)
        self.nx, self.nf = linear.in_features, linear.out_features
        self.held = [linear]
        shared = ("_parameters", "_buffers", "_non_persistent_buffers_set")
        self.__dict__.update({name: vars(linear)[name] for name in shared})
        self.training = linear.training

    @property
    def linear(self) -> Any:
        return self.held[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.linear.dtype

    @property
    def writes(self) -> int:  # type: ignore[override]
        return self.linear.writes

    def _put_back(self, source: Source) -> None:
        self.linear.replaced = self.replaced
        self.linear._put_back(source)

    def weight_shape(self) -> tuple[int, ...]:
        return self.nx, self.nf

    def read_weight(self) -> torch.Tensor:
        return self.linear.read_weight().T

    def write_weight(self, weight: torch.Tensor) -> bool:
        return self.linear.write_weight(weight.T.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear.forward(x)

    def extra_repr(self) -> str:
        return f"{type(self.linear).__name__}({self.linear.extra_repr()})"

    def __repr__(self) -> str:
        return f"QuantizedConv1D({self.extra_repr()})"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        self.linear._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        name = f"{prefix}weight"
        turned = {name: state_dict[name].T} if name in state_dict else {}
        self.linear._load_from_state_dict({**state_dict, **turned}, prefix, *rest)
