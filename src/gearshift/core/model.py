"""A model, seen without knowing any library: a torch module, or a pipeline that holds some."""

from __future__ import annotations

from typing import Any

from gearshift.core.errors import WrongModel


def parts(model: Any) -> dict[str, Any]:
    """The torch modules of a pipeline by component name; a module is its own only part, under ''."""
    import torch

    if isinstance(model, torch.nn.Module):
        return {"": model}
    components = getattr(model, "components", None)
    if isinstance(components, dict):
        found = {n: c for n, c in components.items() if isinstance(c, torch.nn.Module)}
        if found:
            return found
    raise WrongModel(
        f"gearshift works on diffusers pipelines and torch modules (transformers models among them). "
        f"Got {type(model).__name__!r} instead."
    )


def size_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers, shared storage counted once."""
    seen: dict[int, int] = {}
    for part in parts(model).values():
        for tensor in (*part.parameters(), *part.buffers()):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr() or id(storage)] = storage.nbytes()
    return sum(seen.values())
