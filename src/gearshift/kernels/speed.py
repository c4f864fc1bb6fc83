"""How many times as fast one layer is as another: measured, on this machine, at the shapes that come."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import nn


@torch.inference_mode()
def compared(real: nn.Module, twin: nn.Module, example_input: torch.Tensor, budget: float = 50.0) -> float:
    """How many times faster `twin` answers `example_input` than `real` does; below 1 it is slower.

    Both are warmed up, then take turns until the budget is spent, once each at the least; the best of each is compared.
    CPU time where torch has one thread (other programs disturb it less), else wall clock.

    Args:
        budget: milliseconds for the turns, warm-up not counted.
    """
    tick = clock_for(example_input)
    best = [float("inf"), float("inf")]
    for candidate in (real, twin):
        candidate(example_input)
    started = time.perf_counter()
    while best[1] == float("inf") or time.perf_counter() - started < budget / 1000:
        for index, candidate in enumerate((real, twin)):
            before = tick()
            candidate(example_input)
            best[index] = min(best[index], tick() - before)
    return best[0] / max(best[1], 1e-9)


def sparse_over_dense(linear: nn.Linear, example_input: torch.Tensor, budget: float = 20.0) -> float:
    """How many times faster a CSR matrix with the zeros of a layer's weight answers an input than the layer does."""

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                self.matrix = linear.weight.detach().float().to_sparse_csr()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.matrix @ x.flatten(0, -2).float().T

    return compared(linear, Sparse(), example_input, budget)


def clock_for(x: torch.Tensor) -> Callable[[], float]:
    if x.is_cuda:
        return lambda: (torch.cuda.synchronize(x.device), time.perf_counter())[1]
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter
