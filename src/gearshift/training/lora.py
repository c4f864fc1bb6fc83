"""Low-rank updates of linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685), over bases of any number format."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PRUNED = 0.01  # share of zeros in a weight from which on they are taken to be meant, and kept


class LowRank(nn.Module):
    """A linear layer and an update of low rank beside it: base(x) + scale * up(down(x)).

    The update is float32 whatever the base is, and starts at zero. Where the base's weight was pruned, the update
    leaves the zeros alone, so that it can be merged without filling them.

    Attributes:
        base: the layer, frozen; any module with in_features, out_features and a float `weight` to read.
        down, up: [rank, in] and [out, rank].
        scale: alpha over rank.
    """

    def __init__(self, base: Any, rank: int, scale: float, device: Any = None) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.in_features, self.out_features = base.in_features, base.out_features
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=device, dtype=torch.float32))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device, dtype=torch.float32))
        self.train(base.training)

    @classmethod
    def over(cls, base: Any, rank: int, scale: float, generator: torch.Generator) -> LowRank:
        """A new update that changes nothing yet; its rows are drawn from the generator."""
        weight = base.weight
        made = cls(base, rank, scale, weight.device)
        drawn = torch.randn(made.down.shape, generator=generator) / base.in_features**0.5
        made.down.data.copy_(drawn)
        return made

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight, for models that read its dtype."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        return self.base.bias

    def pruned(self) -> torch.Tensor | None:
        """Which weights of the base are kept, if it was pruned; only plain float bases can be."""
        if type(self.base) is not nn.Linear:
            return None
        kept = self.base.weight != 0
        return kept if bool(kept.float().mean() <= 1 - PRUNED) else None

    def update(self) -> torch.Tensor:
        """What is added to the base's weight, float32 [out, in]."""
        delta = self.scale * (self.up @ self.down)
        kept = self.pruned()
        return delta if kept is None else delta * kept

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = input.to(self.down.dtype)
        if self.pruned() is not None:
            added = F.linear(x, self.update())
        else:
            added = self.scale * F.linear(F.linear(x, self.down), self.up)
        y = self.base(input)
        return y + added.to(y.dtype)
