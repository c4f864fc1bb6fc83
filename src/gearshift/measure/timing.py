"""The stopwatch: how long layers take for an input, measured in turns and remembered between runs."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import time
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gearshift.core.errors import BrokenFolder
from gearshift.core.files import write_atomically
from gearshift.core.folders import cache_folder

Seconds = dict[str, float]


class Timings:
    """Seconds by what was timed, kept in the user's cache folder; a file that cannot be read or written is no error."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / "autoquant.json"
        self._known = self._read()

    def get(self, machine: str, work: str) -> Seconds:
        """What is known of some work on a machine."""
        return dict(self._known.get(machine, {}).get(work, {}))

    def put(self, machine: str, work: str, seconds: Seconds) -> None:
        """Remember, beside what other processes may have written since."""
        written = self._read()
        self._known = {
            name: {**written.get(name, {}), **self._known.get(name, {})} for name in {*written, *self._known}
        }
        self._known.setdefault(machine, {})[work] = {**self.get(machine, work), **seconds}
        with contextlib.suppress(BrokenFolder):  # then it is measured again another time
            write_atomically(self.path, json.dumps(self._known, indent=1))

    def _read(self) -> dict[str, dict[str, Seconds]]:
        try:
            found = json.loads(self.path.read_text())
            return {
                str(machine): {
                    str(work): {str(name): float(value) for name, value in seconds.items()}
                    for work, seconds in works.items()
                }
                for machine, works in found.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}


def machine(device: torch.device) -> str:
    """What decides how fast a device is: its name, threads, and the versions of what computes."""
    versions = f"torch {torch.__version__}, gearshift {version('gearshift')}"
    if device.type == "cuda":
        return f"{platform.node()}, {torch.cuda.get_device_name(device)}, {versions}"
    return f"{platform.node()}, {_processor()}, {torch.get_num_threads()} threads, {versions}"


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()


def clock() -> Callable[[], float]:
    """A stopwatch for this machine: CPU time where torch has one thread, wall clock otherwise, and on a GPU in step."""
    if torch.cuda.is_initialized():
        return _in_step
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _in_step() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def fastest_calls(functions: dict[str, Callable[[Any], Any]], x: Any, budget: float, least: int = 3) -> Seconds:
    """Seconds of the fastest call of each function; after a first one of each they take turns.

    Args:
        budget: milliseconds for the turns of each.
        least: turns of each, whatever they take.
    """
    tick, best = clock(), dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function(x)
    started, turns = time.perf_counter(), 0
    while turns < least or time.perf_counter() - started < len(functions) * budget / 1000:
        turns += 1
        for name, function in functions.items():
            before = tick()
            function(x)
            best[name] = min(best[name], tick() - before)
    return best


def speed_ratio(before: Callable[..., Any], after: Callable[..., Any], x: torch.Tensor, budget: float = 50.0) -> float:
    """How many times as fast `after` answers x as `before` does, timed in turns for `budget` milliseconds."""
    seconds = fastest_calls({"before": before, "after": after}, x, budget / 2, least=1)
    return seconds["before"] / max(seconds["after"], 1e-9)


def compiled(layer: nn.Module, backend: str = "inductor") -> Callable[[torch.Tensor], Any]:
    """A layer compiled by itself; with a code object of its own, as torch counts the graphs of each."""
    own = types.FunctionType(_call.__code__.replace(), _call.__globals__)
    run = torch.compile(own, dynamic=False, backend=backend)
    return lambda x: run(layer, x)


def _call(layer: nn.Module, x: torch.Tensor) -> Any:
    return layer(x)
