"""Which precisions a device has, which of them its multipliers take directly, and how fast they are here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gearshift.core.errors import BadValue, quoted
from gearshift.precision.errors import UnsupportedPrecision
from gearshift.precision.levels import Precision

MIB = 2**20


@dataclass(frozen=True)
class PrecisionCapabilities:
    """What a device can do.

    INT4 weights widen to INT8 on their way to the multipliers, so INT4 is supported where INT8 is.

    Attributes:
        supported: precisions, the preferred one first.
        native: those that the multipliers take directly.
        memory_mb: memory of the device, MiB.
        compute_capability: (major, minor) of a CUDA device; None for others.
        name: what it is, in words.

    Raises:
        BadValue: if nothing is supported, or the memory is not a positive number.
    """

    supported: tuple[Precision, ...]
    native: frozenset[Precision]
    memory_mb: float
    int4_tensor_cores: bool = False
    int8_tensor_cores: bool = False
    fp8_tensor_cores: bool = False
    compute_capability: tuple[int, int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "supported", tuple(Precision.parse(p) for p in self.supported))
        object.__setattr__(self, "native", frozenset(Precision.parse(p) for p in self.native))
        if not self.supported:
            raise BadValue("A device must support at least one precision. Got none.")
        _positive("memory_mb", self.memory_mb)

    @classmethod
    def modern_gpu(cls, memory_mb: float) -> PrecisionCapabilities:
        """A GPU of compute capability 8.6 (Ampere) with this much memory in MiB."""
        return cls._of_cuda((8, 6), memory_mb, "GPU of compute capability 8.6")

    @classmethod
    def legacy_gpu(cls, memory_mb: float) -> PrecisionCapabilities:
        """A GPU of compute capability 6.1 (Pascal, no tensor cores): FP16 and FP32."""
        return cls._of_cuda((6, 1), memory_mb, "GPU of compute capability 6.1")

    @classmethod
    def cpu(cls, memory_mb: float) -> PrecisionCapabilities:
        """A CPU that multiplies INT8: all but FP8."""
        p = Precision
        return cls((p.FP32, p.BF16, p.FP16, p.INT8, p.INT4), frozenset({p.FP32, p.INT8}), memory_mb, name="CPU")

    @classmethod
    def detect(cls, device: Any = None) -> PrecisionCapabilities:
        """What this device can do, as its driver tells; without a device: the first GPU, else the CPU.

        Raises:
            BadValue: for a device that is neither a CUDA device nor the CPU.
        """
        import torch

        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            facts = torch.cuda.get_device_properties(device)
            return cls._of_cuda((facts.major, facts.minor), facts.total_memory / MIB, facts.name)
        if device.type == "cpu":
            return cls.cpu(_host_memory_mb())
        raise BadValue(f"The device must be 'cuda' or 'cpu' to be detected. Got {str(device)!r} instead.")

    @classmethod
    def _of_cuda(cls, capability: tuple[int, int], memory_mb: float, name: str) -> PrecisionCapabilities:
        p = Precision
        int8, bf16, fp8 = capability >= (7, 5), capability >= (8, 0), capability >= (8, 9)
        int4 = (7, 5) <= capability < (9, 0)
        order = ((p.FP16, True), (p.BF16, bf16), (p.FP8, fp8), (p.INT8, int8), (p.INT4, int8), (p.FP32, True))
        supported = tuple(precision for precision, there in order if there)
        return cls(
            supported=supported,
            native=frozenset(supported) - (frozenset() if int4 else {p.INT4}),
            memory_mb=memory_mb,
            int4_tensor_cores=int4,
            int8_tensor_cores=int8,
            fp8_tensor_cores=fp8,
            compute_capability=capability,
            name=name,
        )

    @staticmethod
    def measure(
        model: Any, device: Any = None, precisions: Iterable[Precision | str] | None = None, data: Any = None
    ) -> dict[Precision, float]:
        """Seconds per call of this model's own layers at each precision (or at those named), measured.

        Args:
            data: as in `gearshift.optimize`: a list whose first item is a dict of the model's arguments.

        Raises:
            BadValue: if the model is on another device, or nothing is known that it could be called with.
        """
        from gearshift.precision.gear_timing import time_layers

        times: dict[Precision, float] = time_layers(model, device, data)
        wanted = None if precisions is None else {Precision.parse(p) for p in precisions}
        return {p: seconds for p, seconds in times.items() if wanted is None or p in wanted}

    def supports(self, precision: Precision | str) -> bool:
        """Whether this precision is supported."""
        return Precision.parse(precision) in self.supported

    def require(self, precision: Precision | str, step: int | None = None) -> Precision:
        """This precision, if it is supported.

        Raises:
            UnsupportedPrecision: if it is not.
        """
        wanted = Precision.parse(precision)
        if wanted not in self.supported:
            raise UnsupportedPrecision(wanted, self.supported, step)
        return wanted

    def best_supported(self, precision: Precision | str) -> Precision:
        """The nearest supported precision that is not lower; only if there is none, the highest supported one."""
        wanted = Precision.parse(precision)
        return min((p for p in self.supported if p >= wanted), default=max(self.supported))

    def estimate_memory(self, n_params: float, precision: Precision | str) -> float:
        """MiB of this many weights at a precision, without scales and activations."""
        _positive("n_params", n_params)
        return n_params * Precision.parse(precision).bytes / MIB

    def fits_model(self, n_params: float, precision: Precision | str) -> bool:
        """Whether the weights alone fit into the device's memory; activations come on top."""
        return self.estimate_memory(n_params, precision) <= self.memory_mb


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise BadValue(f"{name} must be a positive number. Got {quoted(value)} instead.")


def _host_memory_mb() -> float:
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB
