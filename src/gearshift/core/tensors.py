"""Tensors in safetensors files, bit for bit; one that has several names is written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit, reading
from gearshift.core.errors import quoted
from gearshift.core.plain import dict_of, parse_json, text

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors by name, names that shared one tensor included; they lie in the mapped file.

    Raises:
        BrokenFolder: for a file that is not there, damaged, or no safetensors.
    """
    from safetensors import safe_open

    with reading(file, "weights"):
        with safe_open(str(file), framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            shared = parse_json((opened.metadata() or {}).get("shared", "{}"), dict_of(text()))
        absent = next((name for name in shared.values() if name not in state), None)
        if absent is not None:
            raise Misfit(f"it lacks {quoted(absent)}, which another name shares")
        return state | {name: state[same] for name, same in shared.items()}


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Tensors by name; those of one storage, shape and type under one of their names."""
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, tensor in tensors.items():
        if getattr(tensor, "derived", False):  # computed from others that are written
            continue
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if key in seen:
            shared[name] = seen[key]
        else:
            seen[key] = name
            state[name] = tensor.detach().cpu().contiguous()
    save_file(state, str(file), metadata={"format": "pt", "shared": json.dumps(shared)})
