"""Int8 weights, activations rounded as they come."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.quantizers import LayerQuantizer, least_int8_speed, quantizer_facts
from gearshift.core.param import param


class TorchDynamic(LayerQuantizer):
    """Int8 weights with one scale for each output channel, and activations rounded to 8 bits as they come.

    On CPUs up to 8 tokens at a time, 4 with VNNI, are multiplied as they are: reading weights takes the time then.

    Linear layers are replaced (embedders, modulation and the first and last projections of a denoiser, and the output
    head of a language model, stay as they are), small ones unless int8 was measured to be slower in calls of the model,
    convolutions only where it was measured to be faster.
    """

    facts = quantizer_facts()
    weight_bits: str = param(
        "qint8", choices=("quint8", "qint8"), help="symmetric int8 weights, or uint8 ones with a zero point"
    )

    def types(self) -> tuple[type, ...]:
        from torch import nn

        return (*super().types(), nn.Conv2d)

    def layer_class(self, layer: Any) -> Any:
        from gearshift.layers.int8 import int8_class

        return int8_class(layer)

    def layout(self) -> dict[str, Any]:
        return {"unsigned": self.weight_bits == "quint8"}

    def least_speed(self, layer: Any) -> float | None:
        return least_int8_speed(layer)
