"""torchao's weights."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LayerQuantizer, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param
from gearshift.core.plain import fields, flag, saved_layers
from gearshift.core.target import matches

TYPES = ("int4dq", "int4wo", "int8dq", "int8wo", "fp8wo", "fp8dq", "fp8dqrow")
NAMES = {"norm": "*norm*", "embedding": "*embed*"}
NEEDS = {"int4wo": (8, 0), "fp8dq": (8, 9), "fp8dqrow": (8, 9)}  # CUDA: least compute capability


class Torchao(LayerQuantizer):
    """torchao's weights of 4 or 8 bits in the linear layers, activations in 8 bits as they come or in floating point.

    'dq' types round activations too, token by token, fp8dq in one range for all; 'wo' types round weights only, but for
    int4wo on a CPU, which rounds the activations of up to 8 tokens to 8 bits as well. 4-bit
    weights share a scale and a zero point by 64 (or 32) inputs, others a scale by output channel, and fp8dq has one
    scale. On a CPU gearshift's own products take these weights where torchao's are slow: int8dq is the type that gains
    speed with many tokens at a time, int8wo and int4wo with few, as in decoding.
    """

    facts = quantizer_facts(devices=("cpu", "cuda"), extra="torchao", packages=("torchao",))
    quant_type: str = param("int8dq", choices=TYPES, help="bits of the weights, and whether activations are rounded")
    excluded_modules: str = param(
        "none", choices=("none", "norm", "embedding", "norm+embedding"), help="layers left alone, by what is in a name"
    )

    def check_model(self, model: Any, context: Context) -> list[str]:
        import torch

        from gearshift.models.describe import describe

        device = context.recipe.device or describe(model).device
        if not device.startswith("cuda") or not torch.cuda.is_available():
            return []
        least, here = NEEDS.get(self.quant_type, (0, 0)), torch.cuda.get_device_capability(device)
        if here >= least:
            return []
        words = "{}.{}".format
        return [
            f"torchao: {self.quant_type} needs CUDA compute capability {words(*least)} or higher, and this GPU has "
            f"{words(*here)}; take int8dq or int8wo."
        ]

    def apply(self, model: Any, context: Context) -> None:
        super().apply(model, context)
        assert context.applied is not None
        if context.applied.figures.get("linear_speed_over_float", 1) < 1:
            context.warn(
                "torchao's layers gain from compiling: torch_compile in the same recipe fuses the rounding with what "
                "is around it. On a CPU int8dq is the type that is fast with many tokens, int8wo and int4wo with few."
            )

    def layer_class(self, layer: Any) -> Any:
        from gearshift.layers.vendors.torchao import TorchaoLinear

        return TorchaoLinear

    def layout(self) -> dict[str, Any]:
        return {"quant_type": self.quant_type}

    def quantized_layer(self, layer: Any, place: Place, prepared: None, context: Context) -> Any:
        from gearshift.layers.vendors.torchao import GROUPS, group_of

        for word in self.excluded_modules.split("+"):
            if word in NAMES and matches(place.path, [NAMES[word]]):
                return f"excluded_modules leaves layers with {NAMES[word].strip('*')!r} in their name"
        if layer.in_features == 1:
            return "a layer with one input is no smaller in fewer bits"
        if self.quant_type.startswith("int4") and group_of(layer.in_features) is None:
            return f"4-bit weights need a multiple of {min(GROUPS)} inputs, and a layer has {layer.in_features}"
        return super().quantized_layer(layer, place, prepared, context)

    saved_fields: ClassVar = saved_layers(fields({"tiled": flag}))
    saved_format = ("tiled",)
