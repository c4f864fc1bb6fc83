"""Peak memory of a call, as torch's own allocators report it."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.profiler import profile

from gearshift.core.errors import BadValue, GearshiftError


def peak_bytes(call: Callable[[], object], device: str | None = None) -> int:
    """Most bytes that torch held at once during the call, over what it held before.

    On CUDA these are the caching allocator's counters, summed over the devices in use; the process's peak counters
    start anew. On the CPU every allocation and release is recorded by torch's profiler and summed up in order of time,
    which makes a call of many small operations about half as slow again; a block that was there before and is freed
    within does not count as a gain. Scratch space that oneDNN or a BLAS takes from the system itself is not seen, nor
    are other threads that Python code starts.

    Args:
        call: run once; warm up outside if first-call allocations should not count.
        device: 'cpu' or 'cuda'; by default CUDA where the process already uses it.

    Raises:
        BadValue: another device, or CUDA where there is none.
        GearshiftError: on the CPU, where a torch profiler is running already.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu"
    if device not in ("cpu", "cuda"):
        raise BadValue(f"device must be 'cpu' or 'cuda'; got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadValue("device is 'cuda', but torch sees no CUDA device here; use 'cpu'.")
    gc.collect()
    return _on_cuda(call) if device == "cuda" else _on_cpu(call)


def _on_cuda(call: Callable[[], object]) -> int:
    devices = range(torch.cuda.device_count())
    for i in devices:
        torch.cuda.synchronize(i)
        torch.cuda.reset_peak_memory_stats(i)
    before = [torch.cuda.memory_allocated(i) for i in devices]
    call()
    for i in devices:
        torch.cuda.synchronize(i)
    return sum(torch.cuda.max_memory_allocated(i) - held for i, held in zip(devices, before, strict=True))


def _on_cpu(call: Callable[[], object]) -> int:
    # torch lets a second profiler in, and the first one loses its record.
    if torch.autograd._profiler_enabled():
        raise GearshiftError("A torch profiler is running, and memory on the CPU is measured with one; leave it first.")
    # The allocator warns about the first release of a block older than the profile: here, one of our own.
    older = torch.empty(1)
    recorder = profile(profile_memory=True)
    with _silent_stderr():
        recorder.__enter__()
        del older
    try:
        call()
    finally:
        with _silent_stderr():
            recorder.__exit__(None, None, None)
    assert recorder.kineto_results is not None
    found: list[Any] = recorder.kineto_results.events()
    events = [e for e in found if e.name() == "[memory]" and e.device_type().name == "CPU"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what C++ writes to stderr: the profiler announces its start and stop there, past Python's own stream."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
