"""optimum-quanto's 2, 4 and 8-bit weights."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LayerQuantizer, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.extras import need
from gearshift.core.param import param
from gearshift.core.plain import fields, flag, saved_layers
from gearshift.data.calibration_data import readable, samples, watch_inputs

ROUNDS_INPUTS = ("qint8", "qfloat8")  # below 8 bits the product is one of floats whatever the inputs are


class Quanto(LayerQuantizer):
    """optimum-quanto weights: integers of 2, 4 or 8 bits, or 8-bit floats, a scale for each row or 128 of a row.

    With `data` and 8-bit weights the inputs of layers are rounded to 8 bits as well, in ranges that running the data
    shows: dicts of arguments, tensors, or texts (prompts for a pipeline; a language model's need a `tokenizer`).
    """

    facts = quantizer_facts(extra="quanto", packages=("optimum.quanto",))
    weight_bits: str = param("qfloat8", choices=("qint2", "qint4", "qint8", "qfloat8"), help="type of a weight")
    calibrate: bool = param(True, choices=(True, False), help="8-bit weights: round inputs too, in ranges data shows")

    def apply(self, model: Any, context: Context) -> None:
        found = readable(model, context)
        if found is None:
            super().apply(model, context)
            return
        with samples(context, found):
            super().apply(model, context)

    def prepare(self, model: Any, context: Context, places: list[Place]) -> dict[Any, Any]:
        """The scale of each layer's inputs; none where they stay in floating point."""
        if not self.calibrate:
            return {}
        if self.weight_bits not in ROUNDS_INPUTS:
            context.note(f"calibrate has no effect on {self.weight_bits} weights: their product is one of floats.")
            return {}
        if context.recipe.data is None:
            context.note("No `data` was given to calibrate on, so only weights were rounded.")
            return {}
        step_of = self._vendor().step_of
        steps: dict[Any, Any] = {}

        def widen(layer: Any, x: Any) -> None:
            step = step_of(x, self.weight_bits)
            steps[layer] = step.maximum(steps.get(layer, step))

        watch_inputs(model, context.recipe.data, [place.layer for place in places], widen, self.name)
        return steps

    def layer_class(self, layer: Any) -> Any:
        return self._vendor().QuantoLinear

    def layout(self) -> dict[str, Any]:
        return {"kind": self.weight_bits}

    def quantized_layer(self, layer: Any, place: Place, prepared: dict[Any, Any], context: Context) -> Any:
        if layer.out_features == 1:
            return "quanto needs more than one output"
        step = prepared.get(place.layer)
        step = step if step is not None and step > 0 else None
        return self.layer_class(layer).from_float(layer, **self.layout(), input_scale=step)

    saved_fields: ClassVar = saved_layers(fields({"calibrated": flag}))
    saved_format = ("calibrated",)

    def _vendor(self) -> Any:
        need("optimum.quanto", "quanto", self.name)
        from gearshift.layers.vendors import quanto

        return quanto
