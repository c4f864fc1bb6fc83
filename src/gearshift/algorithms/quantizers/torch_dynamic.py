"""Int8 weights, activations rounded as they come."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.quantizers import BUDGET, LayerQuantizer, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param

WORTH_IT = 1.1  # below this a convolution's gain is within the noise of measuring it


class TorchDynamic(LayerQuantizer):
    """Int8 weights with one scale for each output channel, and activations rounded to 8 bits as they come.

    Linear layers are replaced (embedders, modulation and the first and last projections of a denoiser, and the output
    head of a language model, stay as they are); convolutions only where int8 was measured to be faster here.
    """

    facts = quantizer_facts()
    weight_bits: str = param(
        "qint8", choices=("quint8", "qint8"), help="symmetric int8 weights, or uint8 ones with a zero point"
    )

    def types(self) -> tuple[type, ...]:
        from torch import nn

        return (nn.Linear, nn.Conv2d)

    def prepare(self, model: Any, context: Context, places: list[Place]) -> dict[tuple, float]:
        """How many times faster int8 convolutions are, by their sizes; filled in as they come."""
        return {}

    def twin(self, layer: Any, place: Place, prepared: dict[tuple, float], context: Context) -> Any:
        from torch import nn

        from gearshift.kernels.speed import compared, int8_twin

        twin = int8_twin(layer, unsigned=self.weight_bits == "quint8")
        if twin is None or isinstance(layer, nn.Linear):
            return twin
        if place.input is None:
            return "it is a convolution whose input was never seen, so its speed could not be measured"
        key = (*layer.weight.shape, layer.stride, *place.input.shape)
        if key not in prepared:
            prepared[key] = compared(layer, twin, place.input, BUDGET)
        return twin if prepared[key] >= WORTH_IT else "it is a convolution that int8 does not make faster here"

    def skeleton(self, layer: Any, kept: Any) -> Any:
        from gearshift.kernels.skeleton import int8_skeleton

        return int8_skeleton(layer, self.weight_bits == "quint8")
