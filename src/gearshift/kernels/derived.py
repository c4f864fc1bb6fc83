"""What kernels make of a tensor, kept beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary


class Derived:
    """What was made of tensors, made once and again whenever one was written to.

    Kept beside the tensor, not on the module: so copies, pickles and state dicts hold none of it, and a load or a move
    cannot leave a stale one behind.
    """

    def __init__(self) -> None:
        self._kept, self._lock = WeakTensorKeyDictionary(), threading.Lock()

    def get(self, tensor: torch.Tensor, make: Callable[[], Any], *kind: Any) -> Any:
        """What was made of a tensor of this kind, or `make` of it now."""
        version = (*kind, -1 if tensor.is_inference() else tensor._version, tensor.data_ptr())
        with self._lock:
            entry = self._kept.get(tensor)
            if entry is None or entry[0] != version:
                entry = self._kept[tensor] = (version, make())
            return entry[1]

    def forget(self, tensor: torch.Tensor) -> None:
        """Drop what a tensor has; needed where tensors count no versions, that is, made in inference mode."""
        with self._lock:
            self._kept.pop(tensor, None)
