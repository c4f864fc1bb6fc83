"""Wall clock of several calls in one run, interleaved, and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gearshift.core.errors import BadValue, GearshiftWarning

VECTORS = {"amx_int8": "AMX", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one call, one entry per round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: .1 means that rounds differ by a tenth. 0 after a single round."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.median else 0.0

    def __str__(self) -> str:
        return f"{self.median:.3g} s (spread {self.spread:.0%} over {len(self.seconds)} rounds)"


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 3,
    warmup: int = 1,
    budget_seconds: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time each call once per round, so that a machine that slows down slows all of them.

    Each round starts one call later than the round before: no call always follows the same cold or hot neighbor.

    Args:
        calls: what to time, by name; results are thrown away.
        repeats: rounds that are timed, at least 1.
        warmup: rounds before those that are not timed.
        budget_seconds: no further round starts once this much time has gone by, warm-up included; one always runs.
        on_progress: told (calls done, calls in all) after each call; where the budget ends it early the first stays
            below the second.

    Returns:
        One `Timing` per name, in the order of `calls`.

    Raises:
        BadValue: repeats below 1 or warmup below 0.
    """
    if repeats < 1 or warmup < 0:
        raise BadValue(f"repeats must be at least 1 and warmup at least 0; got {repeats} and {warmup}.")
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    start, done, total = time.perf_counter(), 0, (warmup + repeats) * len(names)
    for turn in range(warmup + repeats):
        late = budget_seconds is not None and time.perf_counter() - start >= budget_seconds
        if late and turn > warmup:
            break
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            taken = call_seconds(calls[name])
            if turn >= warmup:
                seconds[name].append(taken)
            done += 1
            if on_progress:
                on_progress(done, total)
    return {name: Timing(taken) for name, taken in seconds.items()}


def call_seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, with the accelerator's queue empty before and after."""
    start = now()
    call()
    return now() - start


def now() -> float:
    """The clock's seconds, once the accelerator's queue is empty."""
    # Asking a GPU that nobody uses would itself cost seconds and memory.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
    return time.perf_counter()


def machine_description() -> str:
    """This machine in words: cores, processor and its vector width, memory, GPUs, torch's version."""
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)[:1]).split())
    widths = dict.fromkeys(word for flag, word in VECTORS.items() if flag in flags)
    parts = [f"{_cores()} CPU cores ({model.group(1).strip() if model else platform.machine()})"]
    parts += [" + ".join(widths)] if widths else []
    kilobytes = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    parts += [f"{int(kilobytes.group(1)) / 2**20:.1f} GiB memory"] if kilobytes else []
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        parts += [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus]
    threads = torch.get_num_threads()
    return ", ".join([*parts, f"torch {torch.__version__} on {threads} thread{'s' if threads != 1 else ''}"])


def warn_of_another_machine(there: object) -> None:
    """Warn of a recipe that was tuned on a machine that is not this one; None: nobody knows where."""
    here = machine_description()
    if there is not None and there != here:
        sentence = f"This recipe was found on another machine ({there}), not on this one ({here}): measure it here."
        warnings.warn(sentence, GearshiftWarning, stacklevel=4)


def _cores() -> int:
    """Cores that this process may use, which a container can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
