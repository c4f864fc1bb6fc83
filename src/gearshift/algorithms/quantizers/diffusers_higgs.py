"""HIGGS for denoisers: the layers that would do the most harm stay in float."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.quantizers import DIFFUSION, LayerQuantizer, Place, quantizer_facts
from gearshift.algorithms.quantizers.higgs import Higgs
from gearshift.core.context import Context
from gearshift.core.param import param
from gearshift.core.progress import track


class DiffusersHiggs(Higgs):
    """Rotate a denoiser's weights by Hadamard matrices and round them, in pairs, to grids for Gaussian numbers.

    HIGGS (Malinovskii et al. 2024, arXiv 2411.17525), as the quantizer of that name has it for language models. The
    layers that stay in float are those that, quantized alone, change the denoiser's answers most at a few calls of an
    example run (`data`'s first item, or an empty prompt); without one, those whose weights change most. Speed is
    measured, and FLUTE's kernels on CUDA are tuned, at that run with `batch_size` images.
    """

    facts = quantizer_facts(DIFFUSION)
    hadamard_size: int = param(1024, choices=(256, 512, 1024, 2048), help="size of the Hadamard blocks, at most")
    skip_layers: int = param(20, choices=(0, 5, 10, 15, 20), help="percentage of layers left in float")

    def types(self) -> tuple[type, ...]:
        from torch import nn

        return (nn.Linear,)

    def sized(self, seen: Any, batch_size: int) -> Any:
        return seen.reshape(-1, seen.shape[-1])

    def timed_call(self, model: Any, context: Context) -> Any:
        return LayerQuantizer.timed_call(self, model, context)

    def prepare(self, model: Any, context: Context, places: list[Place]) -> dict[str, Any]:
        """The quantized layer of each, or the reason why it is left, by name."""
        from gearshift.algorithms.common import layer_sensitivity

        super().prepare(model, context, places)
        shown = track(places, f"{self.name} makes layers")
        make = super().quantized_layer
        made = {str(place): make(place.layer, place, None, context) for place in shown}
        there = [place for place in places if not isinstance(made[str(place)], str)]
        count = round(len(there) * self.skip_layers / 100)
        if not count:
            return made
        found = layer_sensitivity.of_layers(model, there, made, context)
        measure = "the denoiser's answers change" if found else "the weight changes"
        found = found or layer_sensitivity.of_weights(there, made)
        context.measured(harm=found)
        for name in sorted(found, key=found.__getitem__, reverse=True)[:count]:
            made[name] = f"it is among the {self.skip_layers} % of layers with which {measure} most"
        return made

    def quantized_layer(self, layer: Any, place: Place, prepared: dict[str, Any], context: Context) -> Any:
        return prepared.pop(str(place))
