"""Weights, and where the hardware multiplies them activations, in 8-bit floating point."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LayerQuantizer, Place, quantizer_facts, sqnr
from gearshift.core.context import Context
from gearshift.core.plain import fields, saved_layers, text

LOST = 1e-3  # share of a layer's weights that e4m3fn may round to zero before e5m2 is tried


class Fp8(LayerQuantizer):
    """8-bit floating-point weights (e4m3fn, one scale for each output channel), and activations as they come.

    A layer whose weights need more range than e4m3fn has gets e5m2 where that is nearer to the float layer. On CUDA
    from compute capability 8.9 on, activations are rounded to e4m3fn token by token and multiplied in 8 bits; on other
    devices the weights are stored in 8 bits and multiplied in the type of the input, which saves memory and, but for a
    few tokens at a time on a CPU, no time.
    """

    facts = quantizer_facts()

    def prepare(self, model: Any, context: Context, places: list[Place]) -> None:
        from gearshift.kernels.cuda.fp8 import multiplies

        devices = {place.layer.weight.device for place in places}
        if places and not any(multiplies(device) for device in devices):
            context.warn(
                "fp8 only stores the weights in 8 bits here: this device does not multiply 8-bit floats (CUDA from "
                "compute capability 8.9 on does), so they are multiplied in the model's own type, which saves memory "
                "and, but for a few tokens at a time on a CPU, no time."
            )

    def layer_class(self, layer: Any) -> Any:
        from gearshift.layers.float8 import Fp8Linear

        return Fp8Linear

    def quantized_layer(self, layer: Any, place: Place, prepared: None, context: Context) -> Any:
        quantized = self.layer_class(layer).from_float(layer)
        lost = (quantized.weight == 0) & (layer.weight != 0)
        if lost.float().mean() <= LOST:
            return quantized
        wider = self.layer_class(layer).from_float(layer, "e5m2")
        return max(quantized, wider, key=lambda candidate: _nearness(layer, candidate, place.input))

    saved_fields: ClassVar = saved_layers(fields({"format": text(r"\w+", "the name of a format", most=20)}))
    saved_format = ("format",)


def _nearness(layer: Any, quantized: Any, seen: Any) -> float:
    """SQNR in dB of the outputs for the input that the layer was seen to have, of the weights where none was seen."""
    import torch

    if seen is None:
        return sqnr(layer.weight, quantized.weight)
    with torch.no_grad():
        return sqnr(layer(seen), quantized(seen))
