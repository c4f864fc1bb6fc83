"""Optimizers by name, with float32 masters for parameters of fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gearshift.core.errors import told
from gearshift.core.extras import installed

EIGHT_BIT = {"AdamW8bit": "AdamW8bit", "PagedAdamW8bit": "PagedAdamW8bit"}


def optimizer(
    name: str, parameters: list[nn.Parameter], times: list[float], rate: float, tell: Callable[[str], None]
) -> Any:
    """A torch optimizer over these parameters; 8-bit ones come from bitsandbytes, or are 32-bit, which is said.

    Args:
        times: for each parameter the factor of its learning rate, which its group has under 'times'.
    """
    groups = [
        {"params": [p for p, t in zip(parameters, times, strict=True) if t == factor], "times": factor}
        for factor in dict.fromkeys(times)
    ]
    if name in EIGHT_BIT:
        if installed("bitsandbytes"):
            try:
                import bitsandbytes

                return getattr(bitsandbytes.optim, EIGHT_BIT[name])(groups, lr=rate)
            except Exception as error:
                tell(f"{name} does not run here ({told(error)}); AdamW in 32 bits is used.")
        else:
            tell(f"{name} needs the package bitsandbytes, which is not installed; AdamW in 32 bits is used.")
    kind = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return kind(groups, lr=rate)


class Masters:
    """Float32 copies of parameters, which the optimizer works on; float32 parameters are their own."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.masters = [p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in parameters]

    def take_gradients(self) -> None:
        """Bring the gradients of the parameters to their masters."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter and parameter.grad is not None:
                master.grad = parameter.grad.float()
                parameter.grad = None

    def give_back(self) -> None:
        """Write the masters' values into the parameters."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.data.copy_(master)
