"""Cast to 16 bits."""

from __future__ import annotations

import time
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
            if slower > 1:
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
    originals: dict[str, Any] = field(default_factory=dict)

    def lay(self) -> None:
        for name, tensor in self._tensors():
            if self.keep:
                self.originals[name] = tensor.data
            tensor.data = tensor.data.to(self.dtype)

    def lift(self) -> None:
        for name, tensor in self._tensors():
            tensor.data = self.originals.pop(name).to(tensor.device)

    def why_not(self) -> str | None:
        if self.keep:
            return None
        return (
            "half rounded the weights and the originals were not kept; optimize with keep_original=True to keep them."
        )

    def _tensors(self) -> list[tuple[str, Any]]:
        named = [*self.part.named_parameters(), *self.part.named_buffers()]
        return [(name, tensor) for name, tensor in named if tensor.is_floating_point()]


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
