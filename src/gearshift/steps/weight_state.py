"""Whether weights are what they were: where they lie, how often they were written to, what they hold."""

from __future__ import annotations

from collections.abc import Iterator

import torch

SAMPLE = 32  # numbers of each tensor that are compared at a glance
PARTS = 64  # of a tensor, each with a sum of its own, so that rows that were swapped are found
BYTES = 8  # of the integers that memory is read as; unlike floats they add up in any order, and are equal to themselves


class WeightState:
    """The tensors of a module as they were.

    Attributes:
        digest: of where they are and all that they hold.
    """

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.tensors = [inner for tensor in tensors for inner in _stored(tensor)]
        self._counted = [t for t in self.tensors if not t.is_inference()]
        self._on_cpu = all(t.device.type == "cpu" for t in self.tensors)
        memory = list({t.untyped_storage().data_ptr(): _memory(t) for t in self.tensors}.values())
        whole = [m[: m.numel() // BYTES * BYTES].view(torch.int64) for m in memory]
        ends = [m[m.numel() // BYTES * BYTES :] for m in memory if m.numel() % BYTES]
        self._samples = _alike([m[:: max(m.numel() // SAMPLE, 1) | 1] for m in whole] + ends)
        self._blocks = _alike([m[: _even(m)].view(PARTS, -1) for m in whole if _even(m)])
        self._rests = _alike([m[_even(m) :] for m in whole] + ends)
        self._where = self._places()
        self._sampled = self._sample()
        self._sums = self._summed()
        self.digest = hash((tuple(t.data_ptr() for t in self.tensors), tuple(self._sums)))

    def holds(self, first: bool, run: bool) -> bool:
        """Whether they are the same.

        Args:
            first: this call is the first of its sampling run, or belongs to none.
            run: it belongs to one.
        """
        if self._places() != self._where:
            return False
        if first and run:
            return self._summed() == self._sums
        if first or self._on_cpu:  # comparing makes a GPU wait, so there it is done outside of runs only
            return all(map(torch.equal, self._sample(), self._sampled))
        return True

    def _places(self) -> list[int]:
        return [*[t._version for t in self._counted], *[t.data_ptr() for t in self.tensors]]

    def _sample(self) -> list[torch.Tensor]:
        return [torch.cat(samples) for samples in self._samples]

    def _summed(self) -> list[int]:
        """Sums over all that is held."""
        sums = [torch.cat([block.sum(1) for block in blocks]) for blocks in self._blocks]
        return [n for found in (*sums, *map(torch.cat, self._rests)) for n in found.tolist()]


def _stored(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors with memory of their own that one stands for; none for those that are computed at each use."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _stored(getattr(tensor, name))
    elif tensor.layout == torch.strided and not tensor.is_meta and _bytes(tensor):
        yield tensor


def _bytes(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().nbytes() if tensor.data_ptr() else 0
    except RuntimeError:  # a wrapper around nothing
        return 0


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """All the bytes of a tensor's memory."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _even(memory: torch.Tensor) -> int:
    return memory.numel() // PARTS * PARTS


def _alike(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Those of one type and device together."""
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())
