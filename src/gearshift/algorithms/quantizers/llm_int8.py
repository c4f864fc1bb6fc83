"""bitsandbytes' 8-bit and 4-bit weights."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LANGUAGE, LayerQuantizer, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.model import size_bytes
from gearshift.core.param import param
from gearshift.core.plain import fields, flag, maybe, saved_layers

ROOM = 0.9  # share of the free GPU memory that weights may fill


class LlmInt8(LayerQuantizer):
    """bitsandbytes 8-bit weights with outliers kept in floating point (LLM.int8(), arXiv 2208.07339), or 4-bit ones.

    At 8 bits inputs are rounded token by token, but for columns with a value of 6 or more, which are multiplied in the
    model's own type; on a CPU without VNNI, and for a few tokens at a time, inputs are not rounded. At 4 bits only the
    weights are rounded, 64 to a scale; the product is one in the model's type.
    """

    facts = quantizer_facts(LANGUAGE, extra="bitsandbytes", packages=("bitsandbytes",))
    weight_bits: int = param(8, choices=(4, 8), help="bits of a weight")
    double_quant: bool = param(False, choices=(True, False), help="4 bits: round the scales too")
    enable_fp32_cpu_offload: bool = param(
        False, choices=(True, False), help="layers that would not fit on the GPU stay on the CPU in float32"
    )
    quant_type: str = param("fp4", choices=("fp4", "nf4"), help="4 bits: floating point, or quantiles of a Gaussian")

    def prepare(self, model: Any, context: Context, places: list[Place]) -> set[str]:
        """The layers that stay on the CPU, by name."""
        if self.weight_bits == 8 and self.double_quant:
            context.note("double_quant has no effect at 8 bits: there is one scale for each row, kept in float32.")
        if not self.enable_fp32_cpu_offload:
            return set()
        free = _free_bytes(model)
        if free is None:
            context.note("enable_fp32_cpu_offload has no effect here: the model is on the one device it will run on.")
            return set()
        stay = self._beyond(model, places, ROOM * free)
        context.note(f"{len(stay)} of {len(places)} layers stay on the CPU in float32, the others fit on the GPU.")
        return stay

    def layer_class(self, layer: Any) -> Any:
        from gearshift.layers.vendors.bitsandbytes import FourBitLinear, LLMInt8Linear

        return LLMInt8Linear if self.weight_bits == 8 else FourBitLinear

    def layout(self) -> dict[str, Any]:
        return {} if self.weight_bits == 8 else {"quant_type": self.quant_type, "double_quant": self.double_quant}

    def quantized_layer(self, layer: Any, place: Place, prepared: set[str], context: Context) -> Any:
        from gearshift.layers.vendors.bitsandbytes import HostLinear

        if str(place) in prepared:
            return HostLinear.from_float(layer)
        if self.weight_bits == 4 and layer.in_features % 2:
            return "bitsandbytes packs two inputs a byte, and a layer has an odd number of them"
        return super().quantized_layer(layer, place, prepared, context)

    saved_fields: ClassVar = saved_layers(maybe(fields({"on_host": flag})))
    saved_format = ("on_host",)

    def empty_layer(self, layer: Any, kept: Any) -> Any:
        from gearshift.layers.vendors.bitsandbytes import HostLinear

        return super().empty_layer(layer, None) if kept is None else HostLinear.empty_like(layer)

    def _beyond(self, model: Any, places: list[Place], room: float) -> set[str]:
        """Names of the layers, from the last one on, without which the rest fits into so many bytes."""
        sizes = {str(place): self._stored_bytes(place.layer) for place in places}
        needed = size_bytes(model) + sum(sizes.values()) - sum(place.layer.weight.nbytes for place in places)
        stay = set()
        for name in reversed(sizes):
            if needed <= room:
                break
            needed -= sizes[name]
            stay.add(name)
        return stay

    def _stored_bytes(self, layer: Any) -> int:
        from gearshift.layers.linear_view import as_linear

        return sum(buffer.nbytes for buffer in self.empty_layer(as_linear(layer), None).buffers())


def _free_bytes(model: Any) -> int | None:
    """Free memory of the GPU that a model on the CPU could go to; None where there is no such GPU."""
    import torch

    from gearshift.models.describe import describe

    if not torch.cuda.is_available() or describe(model).device != "cpu":
        return None
    return torch.cuda.mem_get_info()[0]
