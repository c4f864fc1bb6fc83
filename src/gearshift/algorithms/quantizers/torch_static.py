"""Int8 weights, and activations in ranges that calibration fixed."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.quantizers import LayerQuantizer, Place, least_int8_speed, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.param import param
from gearshift.data.calibration_data import made_up, readable, samples, trial, watch_inputs

PER_CHANNEL = "PerChannelMinMaxObserver"


class TorchStatic(LayerQuantizer):
    """Int8 weights, and 8-bit activations whose ranges are fixed by calibration.

    The ranges come from running the model on `data`: dicts of arguments, tensors, or texts (prompts for a pipeline;
    a language model's need a `tokenizer`). Weights have a scale for each output channel. Linear layers are replaced,
    convolutions only where int8 was measured to be faster here.
    """

    facts = quantizer_facts()
    weight_bits: str = param(
        "qint8", choices=("quint8", "qint8"), help="symmetric int8 weights, or uint8 ones with a zero point"
    )
    act_bits: str = param(
        "qint8", choices=("quint8", "qint8"), help="activations' codes; both give the same numbers, kept as uint8"
    )
    qscheme: str = param(
        "per_tensor_affine",
        choices=("per_tensor_symmetric", "per_tensor_affine"),
        help="activations' range: the same on both sides of zero, or from the lowest to the highest",
    )
    qobserver: str = param(
        "MinMaxObserver",
        choices=("MinMaxObserver", "MovingAverageMinMaxObserver", PER_CHANNEL, "HistogramObserver"),
        help="range: widest seen, its running mean, each channel's shared out with its weights, or that of least error",
    )

    def check_model(self, model: Any, context: Context) -> list[str]:
        if context.recipe.data is not None or made_up(model, context.recipe.seed) is not None:
            return []
        return [f"{self.name} needs `data`: a list of samples, each a dict of the model's arguments or its only one."]

    def apply(self, model: Any, context: Context) -> None:
        found = readable(model, context)
        with samples(context, self._made_up(model, context) if found is None else found):
            super().apply(model, context)

    def types(self) -> tuple[type, ...]:
        from torch import nn

        return (*super().types(), nn.Conv2d)

    def prepare(self, model: Any, context: Context, places: list[Place]) -> dict[Any, Any]:
        """An observer for each layer, and how many times faster int8 convolutions are, by their sizes."""
        watching = {place.layer: self._observer(place.layer).to(place.layer.weight.device) for place in places}

        def see(layer: Any, x: Any) -> None:
            watching[layer](_channels_last(layer, x))

        watch_inputs(model, context.recipe.data, watching, see, self.name)
        return watching

    def layer_class(self, layer: Any) -> Any:
        from torch import nn

        from gearshift.layers.int8 import supports
        from gearshift.layers.static_int8 import StaticInt8Conv2d, StaticInt8Linear

        return StaticInt8Linear if isinstance(layer, nn.Linear) else StaticInt8Conv2d if supports(layer) else None

    def layout(self) -> dict[str, Any]:
        return {"unsigned": self.weight_bits == "quint8", "per_channel": self.qobserver == PER_CHANNEL}

    def quantized_layer(self, layer: Any, place: Place, prepared: dict[Any, Any], context: Context) -> Any:
        fixed = _range(prepared[place.layer], layer)
        if fixed is None:
            return "no sample reached it, so its activations have no range"
        made = self.layer_class(layer)
        return made and made.of(layer, fixed, self.weight_bits == "quint8")

    def least_speed(self, layer: Any) -> float | None:
        return least_int8_speed(layer)

    def _made_up(self, model: Any, context: Context) -> list[Any]:
        maker = made_up(model, context.recipe.seed)
        assert maker is not None, "check_model says what such a model needs"
        found = maker()
        trial(model, found[0])
        context.warn(
            f"{self.name} was given no `data`, so its ranges are those of made-up samples: values beyond them will be "
            "cut off. Give a few real samples."
        )
        return found

    def _observer(self, layer: Any) -> Any:
        import torch
        from torch.ao.quantization import observer

        from gearshift.layers.linear_view import is_linear

        kind = getattr(torch, self.act_bits)
        if self.qobserver != PER_CHANNEL:
            return getattr(observer, self.qobserver)(dtype=kind, qscheme=getattr(torch, self.qscheme))
        # the border of a convolution's image is zeros in every channel, so that there is one zero
        affine = self.qscheme == "per_tensor_affine" and is_linear(layer)
        scheme = torch.per_channel_affine if affine else torch.per_channel_symmetric
        return observer.PerChannelMinMaxObserver(ch_axis=-1, dtype=kind, qscheme=scheme)


def _channels_last(layer: Any, x: Any) -> Any:
    """An input with its channels at the end."""
    from gearshift.layers.linear_view import is_linear

    return x.float() if is_linear(layer) else x.float().movedim(-3, -1)


def _range(watching: Any, layer: Any) -> Any:
    """The range that an observer found, in uint8 codes; None if it was given nothing."""
    import torch
    from torch import nn

    from gearshift.quant.formats.fixed_range import CENTER, Fixed, balanced

    if not watching.min_val.numel() or watching.min_val.isinf().any():
        return None
    step, zero = watching.calculate_qparams()
    zero = (zero + (CENTER if watching.dtype == torch.qint8 else 0)).to(torch.uint8)
    if watching.min_val.ndim == 0:
        return Fixed(step.float().squeeze(), zero.squeeze())
    return balanced(Fixed(step.float(), zero if isinstance(layer, nn.Linear) else zero[0]), layer.weight)
