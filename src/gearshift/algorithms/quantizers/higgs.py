"""HIGGS: rotated weights, rounded to the best grids for Gaussian numbers."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LANGUAGE, LayerQuantizer, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param
from gearshift.core.plain import fields, saved_layers, whole


class Higgs(LayerQuantizer):
    """Rotate weights by random signs and Hadamard matrices, and round them, in pairs, to grids for Gaussian numbers.

    HIGGS (Malinovskii et al. 2024, arXiv 2411.17525); it needs no data. A Hadamard block is the largest power of two up
    to `hadamard_size` that divides a layer's inputs, a group the largest divisor up to `group_size`; layers with inputs
    that no block of 8 divides are left. Speed is measured, and FLUTE's kernels on CUDA are tuned, for one new token of
    each of `batch_size` sequences.
    """

    facts = quantizer_facts(LANGUAGE)
    weight_bits: int = param(4, choices=(2, 3, 4), help="bits of a weight")
    p: int = param(2, choices=(1, 2), help="weights that are rounded together, to a grid of as many dimensions")
    group_size: int = param(256, choices=(64, 128, 256), help="weights with a scale in common, at most")
    hadamard_size: int = param(1024, choices=(512, 1024, 2048), help="size of the Hadamard blocks, at most")

    def prepare(self, model: Any, context: Context, places: list[Place]) -> Any:
        from gearshift.kernels.cuda.flute import missing

        for place in places:
            if place.input is not None:
                place.input = self.sized(place.input, context.recipe.batch_size)
        why = missing(places[0].layer.weight.device.type) if places else None
        if why:
            context.note(f"The layers run in plain torch. {why}")
        if any(_mostly_zero(place.layer.weight) for place in places):
            context.note("Zeros of pruned weights are not kept: a rotated weight has none.")

    def sized(self, seen: Any, batch_size: int) -> Any:
        """An input as the layer is to be prepared for, [rows, in]: while generating, a token of each sequence."""
        rows = seen.reshape(-1, seen.shape[-1])
        return rows[-1:].repeat(batch_size, 1)

    def timed_call(self, model: Any, context: Context) -> Any:
        import torch

        call = super().timed_call(model, context)
        if call is None or model.config.is_encoder_decoder:
            return call
        device = next(model.parameters()).device
        tokens = torch.zeros(context.recipe.batch_size, 1, dtype=torch.long, device=device)
        return lambda: model(input_ids=tokens)

    def layer_class(self, layer: Any) -> Any:
        from gearshift.layers.higgs import HiggsLinear

        return HiggsLinear

    def layout(self) -> dict[str, Any]:
        return {"bits": self.weight_bits, "p": self.p}

    def quantized_layer(self, layer: Any, place: Place, prepared: Any, context: Context) -> Any:
        from gearshift.quant.formats.hadamard import LEAST

        rows = context.recipe.batch_size if place.input is None else place.input.shape[0]
        sizes = {"most_group": self.group_size, "most_block": self.hadamard_size, "rows": rows}
        made = self.layer_class(layer).from_float(layer, **self.layout(), **sizes, seed=context.recipe.seed)
        return made or f"its inputs come in no Hadamard blocks of {LEAST} or more"

    saved_fields: ClassVar = saved_layers(fields({"block": whole(1), "group": whole(1), "rows": whole(1)}))
    saved_format = ("block", "group", "rows")


def _mostly_zero(weight: Any) -> bool:
    """Whether more of a weight is zero than comes about by chance."""
    return bool((weight == 0).float().mean() > 0.01)
