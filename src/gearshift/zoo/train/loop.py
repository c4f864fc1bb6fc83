"""One training loop for all models of the zoo: Muon and AdamW, warm-up and decay, averaged weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

MUON_RATE = 2e-3
ADAMW_RATE = 1e-3
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024), for matrices and convolutions.

    The update is scaled by .2 sqrt(larger side), which gives it AdamW's size (Liu et al. 2025, 'Muon is scalable').
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = MUON_RATE) -> None:
        super().__init__(list(params), {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                velocity = self.state[param].setdefault("velocity", torch.zeros_like(param))
                velocity.lerp_(param.grad, 1 - MOMENTUM)
                update = param.grad.lerp(velocity, MOMENTUM).flatten(1)
                scale = 0.2 * max(update.shape) ** 0.5
                param.add_(orthogonal(update).view_as(param), alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Nearly the closest matrix with all singular values 1, by a quintic Newton-Schulz iteration."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if wide is not matrix else x


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for matrices and convolutions, AdamW for embeddings, heads, norms and biases."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    params = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in params if p.ndim >= 2 and id(p) not in tables and min(p.shape[0], p[0].numel()) >= 16]
    chosen = {id(p) for p in matrices}
    rest = [p for p in params if id(p) not in chosen]
    return [Muon(matrices), torch.optim.AdamW(rest, lr=ADAMW_RATE, weight_decay=0.01)]


def fit(model: nn.Module, loss: Callable[[int], torch.Tensor], steps: int, warmup: int = 100, seed: int = 0) -> None:
    """Minimize `loss(step)` over the model's parameters and leave the averaged weights in it.

    The rate rises over `warmup` steps, is constant until half of them are done, and falls to zero. Prints the loss.
    """
    torch.manual_seed(seed)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = optimizers(model)
    rates = [group["lr"] for optimizer in chosen for group in optimizer.param_groups]
    start, recent = time.perf_counter(), 0.0
    for step in range(steps):
        factor = min((step + 1) / warmup, 1.0, 2 * (steps - step) / steps)
        for rate, optimizer in zip(rates, chosen, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        value = loss(step)
        model.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
        _blend(average, model, min(0.998, (step + 1) / (step + 10)))
        recent = value.item() if step == 0 else 0.98 * recent + 0.02 * value.item()
        if (step + 1) % 100 == 0 or step + 1 in (10, steps):
            print(f"step {step + 1}/{steps}  loss {recent:.4f}  {time.perf_counter() - start:.0f} s", flush=True)
    model.load_state_dict(average)


@torch.no_grad()
def _blend(average: dict[str, torch.Tensor], model: nn.Module, keep: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)
        else:
            average[name].copy_(value)


def one_thread() -> None:
    """Train on one core and quietly; the figures in the README were reached so."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)


def write(model: Any, folder: Path) -> None:
    """Save a diffusers or transformers model as fp16 safetensors, and leave it in fp32 with the values just saved."""
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()
