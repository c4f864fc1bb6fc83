"""Half-quadratic quantization of language models."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.group_quantizers import Grouping
from gearshift.algorithms.quantizers import LANGUAGE, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param


class Hqq(Grouping):
    """Weights of few bits in groups, whose scales and zeros let few weights err much rather than many a little.

    HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog), with scales as well as zeros moved; it needs no data.
    On a CPU 4-bit layers may round the activations of up to 8 tokens to 8 bits as well; the notes say so.
    """

    facts = quantizer_facts(LANGUAGE)
    weight_bits: int = param(8, choices=(2, 4, 8), help="width of the weights")
    group_size: int = param(64, choices=(8, 16, 32, 64, 128), help="weights with a scale and a zero in common")
    compute_dtype: str = param(
        "torch.float16",
        choices=("torch.bfloat16", "torch.float16"),
        help="arithmetic type of the products, where the device has its arithmetic",
    )

    def layout(self) -> dict[str, Any]:
        import torch

        compute = getattr(torch, self.compute_dtype.removeprefix("torch."))
        return {"bits": self.weight_bits, "group": self.group_size, "compute": compute}

    def prepare(self, model: Any, context: Context, places: list[Place]) -> None:
        from gearshift.kernels.cpu.arithmetic import has_arithmetic

        if places and places[0].layer.weight.device.type == "cpu" and not has_arithmetic(self.layout()["compute"]):
            context.note(
                f"This CPU has no arithmetic of {self.compute_dtype.removeprefix('torch.')}: products are computed in "
                "float32 here, and in compute_dtype where the model is moved to a GPU."
            )

    def quantized_layer(self, layer: Any, place: Place, prepared: None, context: Context) -> Any:
        from gearshift.quant.rounding.hqq import half_quadratic

        return self.fitted_layer(layer, half_quadratic, context)
