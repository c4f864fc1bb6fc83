"""Half-quadratic quantization of denoisers."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.group_quantizers import Grouping
from gearshift.algorithms.quantizers import DIFFUSION, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param


class HqqDiffusers(Grouping):
    """A denoiser's weights with few bits in groups, whose scales and zeros let few weights err much.

    HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog), with scales as well as zeros moved; it needs no data. The
    kernels that can be asked for are for CUDA; elsewhere, and where one does not have the width and group, the weights
    are widened as they are multiplied. On a CPU 4-bit layers round the activations of up to 8 tokens to 8 bits, too.
    """

    facts = quantizer_facts(DIFFUSION)
    weight_bits: int = param(8, choices=(2, 4, 8), help="width of the weights")
    group_size: int = param(64, choices=(8, 16, 32, 64, 128), help="weights with a scale and a zero in common")
    backend: str = param(
        "torchao_int4",
        choices=("gemlite", "bitblas", "torchao_int4", "marlin"),
        help="kernel for the products on CUDA; torchao_int4 is the one in torch itself",
    )

    def layout(self) -> dict[str, Any]:
        return {"bits": self.weight_bits, "group": self.group_size, "backend": self.backend}

    def types(self) -> tuple[type, ...]:
        from torch import nn

        return (nn.Linear,)

    def prepare(self, model: Any, context: Context, places: list[Place]) -> None:
        from gearshift.kernels.cuda.int4 import BACKENDS

        why = BACKENDS[self.backend].lacks(self.weight_bits, self.group_size)
        if why:
            context.note(f"The kernel {self.backend} is not used here: {why}.")

    def quantized_layer(self, layer: Any, place: Place, prepared: None, context: Context) -> Any:
        from gearshift.quant.rounding.hqq import half_quadratic

        return self.fitted_layer(layer, half_quadratic, context)
