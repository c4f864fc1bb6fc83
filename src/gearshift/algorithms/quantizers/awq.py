"""Weights rounded with an eye on which inputs are large."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.group_quantizers import Calibrating
from gearshift.algorithms.quantizers import LANGUAGE, Place, quantizer_facts
from gearshift.core.context import Context

BITS, GROUP = 4, 128
TOGETHER = 8  # groups of layers of a block that are watched in one run of it


class Awq(Calibrating):
    """4-bit weights in groups of 128, input channels scaled up where activations are large, so that they lose less.

    AWQ (Lin et al. 2023, arXiv 2306.00978) on `data`: texts with a `tokenizer`, token tensors, or dicts of arguments.
    The scales are searched for block by block and put into the norm or the layer before; where that cannot be, the
    layer scales its input, or goes without where weights are to be exportable. Grids are then fitted for the least
    error of the output. What takes the time is fitting them for each of seven candidate scales: about a minute of a
    core for every 20 million weights.
    On a CPU the layers round the activations of up to 8 tokens to 8 bits as well.
    """

    facts = quantizer_facts(LANGUAGE)

    def layout(self) -> dict[str, Any]:
        return {"bits": BITS, "group": GROUP}

    def prepare(self, model: Any, context: Context, places: list[Place]) -> dict[Any, tuple[Any, Any]]:
        """The rounded weight of each layer, and the scale of its input or None; weights and norms are scaled."""
        from gearshift.models.scale_folding import Rescaled

        found: dict[Any, tuple[Any, Any]] = {}
        errors: list[tuple[float, float]] = []
        change = Rescaled(self.name, context.keep_original, "scaled weights")
        context.change(change)
        for block in self.blocks(model, context, places):
            scaled = []
            for first in range(0, len(block.groups), TOGETHER):  # scaling changes no other group's inputs
                groups = block.groups[first : first + TOGETHER]
                for group, activity in zip(groups, self._seen(block, groups), strict=True):
                    scaled.append(
                        (group, activity, *self._scaled(block, group, activity, model.config, change, context))
                    )
            for group, activity, scales, folded in scaled:  # after all scales: these change layers of other groups too
                for layer in group:
                    found[layer] = self._rounded(layer, activity, scales, folded, errors, context)
        self.measure(context, errors)
        return found

    def _seen(self, block: Any, groups: list[list[Any]]) -> list[Any]:
        """What the layers of each group are given, seen in one run of the block on the data."""
        from gearshift.layers.linear_view import matrix
        from gearshift.quant.rounding.awq import Activity

        seen = {layers[0]: Activity(matrix(layers[0]).shape[1], GROUP, layers[0].weight.device) for layers in groups}
        block.watch({layer: activity.see for layer, activity in seen.items()})
        return list(seen.values())

    def _scaled(
        self, block: Any, layers: list[Any], activity: Any, config: Any, change: Any, context: Context
    ) -> tuple[Any, bool]:
        """The scales of the inputs that the layers share, and whether another module has them."""
        import torch

        from gearshift.layers.linear_view import matrix
        from gearshift.models.scale_folding import find_source
        from gearshift.quant.rounding.awq import found_scales

        source, exportable = find_source(block, layers, config), context.recipe.exportable
        if source is None and exportable:
            return torch.ones_like(activity.size), False
        weight = torch.cat([matrix(layer).detach().float() for layer in layers])
        scales = found_scales(weight, activity, BITS, source.rows if source else None, exportable)
        if bool((scales == 1).all()):
            source = None
        if source is not None:
            change.rows(source.module, source.rows, scales)
            for layer in layers:
                change.columns(layer, scales)
        return scales, source is not None

    def _rounded(
        self, layer: Any, activity: Any, scales: Any, folded: bool, errors: list, context: Context
    ) -> tuple[Any, Any]:
        from gearshift.layers.linear_view import matrix
        from gearshift.quant.formats.grouped import dequantize, quantize
        from gearshift.quant.rounding.awq import rounded

        weight = matrix(layer).detach().float() * (1 if folded else scales)
        grouped = rounded(weight, activity, scales, BITS, context.recipe.exportable)
        exact = weight / scales
        rivals = dequantize(grouped) / scales, dequantize(quantize(exact, BITS, GROUP))
        errors.append((activity.error(rivals[0] - exact), activity.error(rivals[1] - exact)))
        return grouped, None if folded or bool((scales == 1).all()) else 1 / scales

    def quantized_layer(self, layer: Any, place: Place, prepared: dict[Any, tuple[Any, Any]], context: Context) -> Any:
        if place.layer not in prepared:
            return self.unseen(layer, place, context)
        return self.grouped_layer(layer, *prepared[place.layer])
