"""Rounding with error compensation."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.group_quantizers import Calibrating
from gearshift.algorithms.quantizers import LANGUAGE, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param


class Gptq(Calibrating):
    """Round each weight so that the columns still to come make up for its error, on what the layers are really given.

    GPTQ (Frantar et al. 2022, arXiv 2210.17323) on `data`: texts with a `tokenizer`, token tensors, or dicts of
    arguments. Blocks are calibrated in turn, each on what the rounded ones before it answer, and so are the layers
    inside of a block. On a CPU 4-bit layers round the activations of up to 8 tokens to 8 bits as well.
    """

    facts = quantizer_facts(LANGUAGE)
    weight_bits: int = param(4, choices=(2, 3, 4, 8), help="width of the weights")
    use_exllama: bool = param(False, choices=(True, False), help="ask for ExLlama's kernels")
    group_size: int = param(128, choices=(64, 128, 256), help="weights with a scale and a zero in common")

    def layout(self) -> dict[str, Any]:
        return {"bits": self.weight_bits, "group": self.group_size}

    def prepare(self, model: Any, context: Context, places: list[Place]) -> dict[Any, Any]:
        """The rounded weights by layer; the layers are as they were."""
        if self.use_exllama:
            context.warn(
                "ExLlama's kernels are not used: they run on CUDA alone and take whole zeros, which these weights do "
                "not have. On CUDA the layers use torch's own int4 kernel, if the model computes in bfloat16."
            )
        found: dict[Any, Any] = {}
        errors: list[tuple[float, float]] = []
        for block in self.blocks(model, context, places):
            originals = {layer: layer.weight.data for group in block.groups for layer in group}
            try:
                for group in block.groups:
                    found.update(self._rounded(block, group, errors, context))
                block.advance()
            finally:
                for layer, weight in originals.items():
                    layer.weight.data = weight
        self.measure(context, errors)
        return found

    def _rounded(
        self, block: Any, layers: list[Any], errors: list[tuple[float, float]], context: Context
    ) -> dict[Any, Any]:
        """Weights of layers with a common input, which the layers are given for what comes after them."""
        from gearshift.layers.linear_view import matrix
        from gearshift.models.calibration import put_matrix
        from gearshift.quant.formats.grouped import dequantize, quantize
        from gearshift.quant.rounding.gptq import Gram, compensated

        size, whole_zeros = (self.weight_bits, self.group_size), context.recipe.exportable
        gram = Gram(matrix(layers[0]).shape[1], layers[0].weight.device)
        block.watch({layers[0]: gram.see})
        found = {}
        for layer in layers:
            weight = matrix(layer).detach().float()
            grouped = found[layer] = compensated(weight, gram.matrix, *size, whole_zeros)
            nearest = quantize(weight, *size)
            errors.append((gram.error(weight - dequantize(grouped)), gram.error(weight - dequantize(nearest))))
            put_matrix(layer, dequantize(grouped))
        return found

    def quantized_layer(self, layer: Any, place: Place, prepared: dict[Any, Any], context: Context) -> Any:
        found = prepared.get(place.layer)
        return self.unseen(layer, place, context) if found is None else self.grouped_layer(layer, found)
