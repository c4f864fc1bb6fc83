"""Energy of a piece of work, where the machine tells: Intel's and AMD's RAPL counters, NVIDIA's NVML."""

from __future__ import annotations

from pathlib import Path

import torch

from gearshift.core.extras import installed

RAPL = Path("/sys/class/powercap")


class Meter:
    """Reads counters before and after; they are of the whole machine, so what else runs on it counts as well."""

    def __init__(self, rapl: Path = RAPL) -> None:
        found = sorted(rapl.glob("intel-rapl:[0-9]")) if rapl.is_dir() else []
        self._zones = [zone for zone in found if _number(zone / "energy_uj") is not None]
        self._gpus = _gpus()
        self._before: list[float] = []

    def start(self) -> None:
        self._before = self._joules()

    def stop(self) -> float | None:
        """Joules since `start`; None where nothing tells."""
        after = self._joules()
        if not after or len(after) != len(self._before):
            return None
        spans = [_number(zone / "max_energy_range_uj") or 0.0 for zone in self._zones]
        spans += [0.0] * len(self._gpus)
        used = [b - a for a, b in zip(self._before, after, strict=True)]
        return sum(u if u >= 0 else u + span / 1e6 for u, span in zip(used, spans, strict=True))

    def _joules(self) -> list[float]:
        zones = [(_number(zone / "energy_uj") or 0.0) / 1e6 for zone in self._zones]
        return zones + [read() for read in self._gpus]


def _gpus() -> list:
    """What reads each GPU's counter, J; none without NVML."""
    if not (torch.cuda.is_available() and installed("pynvml")):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return []
    return [lambda h=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3 for handle in handles]


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
