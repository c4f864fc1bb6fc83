"""Building a model that a configuration of unknown origin describes, no larger than its weights allow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gearshift.core.boundary import Misfit

PER_TENSOR = 20  # modules that a model has for each tensor of its file, at most: activations, dropouts, holders
FREE = 2000


@contextmanager
def within_bounds(tensors: int) -> Iterator[None]:
    """Models that this thread builds inside of the block have no more modules than a file of so many tensors fills.

    A configuration of ten million layers is so refused after a moment, before it takes the memory.

    Raises:
        Misfit: when there are more.
    """
    from torch.nn.modules import module

    builder, left = threading.get_ident(), FREE + PER_TENSOR * tensors

    def count(*_: Any) -> None:
        nonlocal left
        if threading.get_ident() == builder:
            left -= 1
            if left < 0:
                raise Misfit(f"its configuration makes far more layers than its {tensors} tensors could fill")

    handle = module.register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
