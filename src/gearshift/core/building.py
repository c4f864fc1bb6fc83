"""Building a model that a configuration of unknown origin describes, no larger than its weights allow."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit, reading

if TYPE_CHECKING:
    from torch.nn import Parameter

PER_TENSOR = 8  # modules that a model has for each tensor of its files, at most: activations, dropouts, holders
PER_BYTE = 100  # numbers for each byte: a quarter of one holds a number, and a pruned model is built whole at first
FREE_MODULES, FREE_NUMBERS = 1000, 1 << 24


@contextmanager
def within_bounds(files: Iterable[Path]) -> Iterator[None]:
    """Models that this thread builds inside of the block have no more modules and numbers than such files fill.

    A configuration of ten million layers is so refused after a moment, before it takes the memory.

    Args:
        files: the model's weights; those that are no safetensors count by their bytes alone.

    Raises:
        Misfit: when there are more.
    """
    from torch.nn.modules import module

    tensors, size = _counted(files)
    builder = threading.get_ident()
    left = {"modules": FREE_MODULES + PER_TENSOR * tensors, "numbers": FREE_NUMBERS + PER_BYTE * size}

    def count(what: str, amount: int) -> None:
        if threading.get_ident() == builder:
            left[what] -= amount
            if left[what] < 0:
                raise Misfit(f"its configuration makes far more {what} than its weights ({size} bytes) could fill")

    def one(*_: Any) -> None:
        count("modules", 1)

    def all_of(_: Any, name: str, parameter: Parameter | None) -> None:
        count("numbers", 0 if parameter is None else parameter.numel())

    handles = [
        module.register_module_module_registration_hook(one),
        module.register_module_parameter_registration_hook(all_of),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counted(files: Iterable[Path]) -> tuple[int, int]:
    """Tensors and bytes of files."""
    from safetensors import safe_open

    tensors = size = 0
    for file in files:
        size += file.stat().st_size
        if file.suffix == ".safetensors":
            with reading(file, "weights"), safe_open(str(file), framework="pt") as opened:
                tensors += len(opened.keys())
    return tensors, size
