"""Several projections of one input as one matrix, behind the names that the separate ones had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class FusedHead(nn.Linear):
    """The first of the fused projections: it multiplies once, answers with its share and sets the others aside.

    An nn.Linear to everyone who asks: `weight` and `bias` are views of its rows, so that adapters attach and merge.

    Attributes:
        fused: the one projection, [sum of out_features, in_features].
    """

    def __init__(self, fused: nn.Module, widths: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.widths = list(widths)
        self.in_features, self.out_features = fused.in_features, self.widths[0]
        self.fused = fused
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

    @property
    def weight(self) -> torch.Tensor:
        return self.rows(0, "weight")

    @property
    def bias(self) -> torch.Tensor | None:
        return self.rows(0, "bias")


class FusedTail(nn.Linear):
    """One of the other fused projections. It holds its head without owning it, so that nothing is counted twice."""

    def __init__(self, head: FusedHead, index: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.widths[index]
        self.index = index
        self.head = [head]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head[0].take(input, self.index)

    @property
    def weight(self) -> torch.Tensor:
        return self.head[0].rows(self.index, "weight")

    @property
    def bias(self) -> torch.Tensor | None:
        return self.head[0].rows(self.index, "bias")


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
            if getattr(linear, name) is not None:
                getattr(linear, name).data = head.rows(index, name).detach().clone()
