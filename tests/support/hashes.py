"""What a model is, in a few digits: the recipe that was applied to it and a hash of each of its tensors."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

import gearshift as gs
from gearshift.core.model import parts


def short_hash(tensor: torch.Tensor) -> str:
    """Type, shape and bits of a tensor in 16 hexadecimal digits."""
    bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + bits).hexdigest()[:16]


def tensors(model: Any) -> dict[str, str]:
    """Short hashes of what state dicts hold, by part and name, without weights that are computed when they are read."""
    named = ((f"{p}.{n}", v) for p, m in parts(model).items() for n, v in m.state_dict().items())
    return {name: short_hash(value) for name, value in named if not getattr(value, "derived", False)}


def recipe(model: Any) -> list[dict[str, Any]]:
    """What the status says was done."""
    return [{"name": a["name"], "params": a["params"]} for a in gs.status(model).applied]
