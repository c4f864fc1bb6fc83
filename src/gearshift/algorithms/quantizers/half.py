"""Cast to 16 bits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Persist, Slot, Stage, Trait
from gearshift.core.model import parts


class Half(Algorithm):
    """Cast the weights to 16-bit floating point (float16)."""

    facts = Facts(
        family=Family.QUANTIZER,
        stage=Stage.QUANTIZE,
        persist=Persist.WEIGHTS,
        occupies={Slot.WEIGHT_FORMAT},
        needs={Trait.FLOAT_WEIGHTS},
    )

    def apply(self, model: Any, context: Context) -> None:
        import torch

        from gearshift.models.describe import describe

        for part in parts(model).values():
            context.change(Cast(part, torch.float16, context.keep_original))
        context.save(parts=list(parts(model)))
        if not context.saved and describe(model).device == "cpu":
            slower = slower_than_float32()
            context.measured(matmul_slower_than_float32=slower)
            if slower >= 1.1:
                context.warn(
                    f"half multiplies matrices {slower:.1f} times more slowly than float32 on this CPU: "
                    "it halves the memory here, and saves time on a GPU."
                )


@dataclass(eq=False)
class Cast:
    """All floating-point parameters and buffers of a module in another type."""

    part: Any
    dtype: Any
    keep: bool
    originals: list[Any] = field(default_factory=list)

    def lay(self) -> None:
        for parameter in _floating(self.part.parameters()):
            self._keep(parameter.data)
            parameter.data = parameter.data.to(self.dtype)
        for module in self.part.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    self._keep(buffer)
                    module._buffers[name] = buffer.to(self.dtype)

    def lift(self) -> None:
        for parameter in _floating(self.part.parameters()):
            parameter.data = self.originals.pop(0).to(parameter.device)
        for module in self.part.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    module._buffers[name] = self.originals.pop(0).to(buffer.device)

    def why_not(self) -> str | None:
        if self.keep:
            return None
        return "half rounded the weights and the originals were not kept; keep_original=True would have kept them."

    def _keep(self, tensor: Any) -> None:
        if self.keep:
            self.originals.append(tensor)


def _floating(tensors: Iterable[Any]) -> list[Any]:
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def slower_than_float32(size: int = 384, repeats: int = 5) -> float:
    """Seconds of a float16 matrix product over those of a float32 one, on the CPU of this machine."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.float16) / seconds(torch.float32)
