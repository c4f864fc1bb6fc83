"""Several projections of one input as one matrix, behind the names that the separate ones had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.errors import BadValue
from gearshift.layers.lazy_weight import LazyWeight, real

SHOWN = ("weight", "bias")


class FusedPart(nn.Linear):
    """One of the fused projections: an nn.Linear to everyone who asks.

    `weight` and `bias` are its rows of the fused ones, so that adapters attach and merge. What is written to them, in
    whichever way, is written to the fused projection. The state dict shows them beside the fused ones.
    """

    index = 0

    def share(self, name: str) -> Any:
        """This projection's part of the fused weight or bias, as a view; None where there is no bias."""
        raise NotImplementedError

    @property
    def weight(self) -> torch.Tensor:
        return self._shown("weight")

    @property
    def bias(self) -> torch.Tensor | None:
        return self._shown("bias")

    def _shown(self, name: str) -> Any:
        share = self.share(name)
        if share is None or isinstance(share, LazyWeight) or torch.compiler.is_compiling():
            return share
        return LazyWeight(_Rows(self, name), share.shape, share.dtype, share.device)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in SHOWN:
            super().__setattr__(name, value)
        elif isinstance(value, torch.Tensor) and self.share(name) is not None:
            getattr(self, name).data = value
        else:
            raise BadValue(f"The {name} of a fused projection cannot become {type(value).__name__}.")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        shown = {f"{prefix}{name}": getattr(self, name) for name in SHOWN}
        destination.update({name: value for name, value in shown.items() if value is not None})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        given = dict(state_dict)
        for name in SHOWN:
            value = given.pop(f"{prefix}{name}", None)
            if value is not None and not isinstance(value, LazyWeight):
                setattr(self, name, value)
        super()._load_from_state_dict(given, prefix, *rest)


class _Rows:
    """The rows of a fused float projection that are one part's, as the owner of a lazy weight."""

    writes = 0

    def __init__(self, part: FusedPart, name: str) -> None:
        self.part, self.name = part, name

    def read_weight(self) -> torch.Tensor:
        return self.part.share(self.name).detach()

    @torch.no_grad()
    def write_weight(self, weight: torch.Tensor) -> bool:
        rows = self.read_weight()
        if rows.shape != weight.shape:
            raise BadValue(f"A {self.name} of shape {tuple(rows.shape)} was given one of {tuple(weight.shape)}.")
        if rows.data_ptr() != weight.data_ptr():
            rows.copy_(real(weight))
        return False


class FusedHead(FusedPart):
    """The first of the fused projections: it multiplies once, answers with its share and sets the others aside.

    Attributes:
        fused: the one projection, [sum of out_features, in_features].
    """

    def __init__(self, fused: nn.Module, widths: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.widths = list(widths)
        self.in_features, self.out_features = fused.in_features, self.widths[0]
        self.fused = fused
        self.register_load_state_dict_post_hook(_without_missing)
        self.given_in_parts = ""
        self.aside: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        shares = self.fused(input).split(self.widths, dim=-1)
        self.aside = (input, shares)
        return shares[0]

    def take(self, input: torch.Tensor, index: int) -> torch.Tensor:
        """Another projection's share: set aside a moment ago for this very input, or computed now."""
        aside = self.aside
        if index == len(self.widths) - 1:
            self.aside = None
        if aside is not None and aside[0] is input:
            return aside[1][index]
        if type(self.fused) is nn.Linear:
            return F.linear(input, self.rows(index, "weight"), self.rows(index, "bias"))
        return self.fused(input).split(self.widths, dim=-1)[index]

    def rows(self, index: int, name: str) -> Any:
        """One projection's part of the fused weight or bias, as a view; None where there is no bias."""
        whole = getattr(self.fused, name)
        return None if whole is None else whole.narrow(0, sum(self.widths[:index]), self.widths[index])

    def share(self, name: str) -> Any:
        return self.rows(0, name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        in_parts = f"{prefix}weight" in state_dict and not any(
            name.startswith(f"{prefix}fused.") for name in state_dict
        )
        self.given_in_parts = f"{prefix}fused." if in_parts else ""
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _without_missing(head: FusedHead, keys: Any) -> None:
    """After loading separate projections: the fused one, which they were written to, is not missing."""
    if head.given_in_parts:
        keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith(head.given_in_parts)]


class FusedTail(FusedPart):
    """One of the other fused projections. It holds its head without owning it, so that nothing is counted twice."""

    def __init__(self, head: FusedHead, index: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.widths[index]
        self.index = index
        self.head = [head]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head[0].take(input, self.index)

    def share(self, name: str) -> Any:
        return self.head[0].rows(self.index, name)


def fuse(linears: Sequence[nn.Linear]) -> list[nn.Linear]:
    """Replacements for projections of one input: a head and its tails.

    The weights move into the fused matrix: the given modules are left without storage until `unfuse`.
    """
    first = linears[0]
    widths = [m.out_features for m in linears]
    with torch.no_grad(), torch.device("meta"):
        fused = nn.Linear(first.in_features, sum(widths), bias=first.bias is not None)
    for name in ("weight", "bias"):
        if getattr(first, name) is not None:
            whole = torch.cat([getattr(m, name).detach() for m in linears])
            setattr(fused, name, nn.Parameter(whole, requires_grad=getattr(first, name).requires_grad))
            for m in linears:
                getattr(m, name).data = whole.new_empty(0)
    head = FusedHead(fused.train(first.training), widths)
    return [head, *(FusedTail(head, i) for i in range(1, len(linears)))]


def unfuse(head: FusedHead, linears: Sequence[nn.Linear]) -> None:
    """Give the weights back to the modules that `fuse` took them from, bit for bit."""
    for index, linear in enumerate(linears):
        for name in ("weight", "bias"):
            parameter = getattr(linear, name)
            if parameter is None:
                continue
            rows = head.rows(index, name).detach().clone()
            if parameter.is_meta:  # of a model that was loaded fused
                setattr(linear, name, nn.Parameter(rows, parameter.requires_grad))
            else:
                parameter.data = rows
