"""What quantizers share whose weights have few bits in groups of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LANGUAGE, LayerQuantizer, Place, quantizer_facts
from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe
from gearshift.core.plain import fields, flag, saved_layers, whole
from gearshift.data.calibration_data import made_up, readable, samples

MOST, BATCH = 128, 8  # windows that are read, and those that are run at a time
SHORT = 32  # tokens
BETTER = "A few pages of the text it is meant for (data= and tokenizer=) make it better."


class Grouping(LayerQuantizer, base=True):
    """The layers such a quantizer works on, and the layers it makes."""

    facts = quantizer_facts()

    def layer_class(self, layer: Any) -> Any:
        from gearshift.layers.grouped import GroupedLinear

        return GroupedLinear

    def grouped_layer(self, layer: Any, grouped: Any, input_scale: Any = None) -> Any:
        """The layer of these weights in the place of a float one."""
        more = {k: v for k, v in self.layout().items() if k not in ("bits", "group")}
        return self.layer_class(layer).of(layer, grouped, input_scale, **more)

    def fitted_layer(self, layer: Any, fit: Callable[..., Any], context: Context) -> Any:
        """The layer with a float one's weight rounded to nearest on grids that `fit` finds for groups and bits."""
        from gearshift.quant.formats.grouped import quantize

        bits, group, whole_zeros = self.layout()["bits"], self.layout()["group"], context.recipe.exportable
        grouped = quantize(layer.weight, bits, group, lambda groups: fit(groups, bits), whole_zeros)
        return self.grouped_layer(layer, grouped)

    saved_fields: ClassVar = saved_layers(fields({"bits": whole(1, 8), "group": whole(1), "scaled_input": flag}))
    saved_format = ("bits", "group", "scaled_input")


class Calibrating(Grouping, base=True):
    """The same for quantizers of language models that look at what the layers are given."""

    facts = quantizer_facts(LANGUAGE)

    def apply(self, model: Any, context: Context) -> None:
        batches = token_batches(model, context)
        with samples(context, [_brief(batches[0]), *batches]):  # the first to try things with, and time layers
            super().apply(model, context)

    def blocks(self, model: Any, context: Context, places: list[Place]) -> Iterator[Any]:
        """The model's blocks, one after the other, ready to be run on the batches."""
        from gearshift.models.calibration import walk

        return walk(model, [place.layer for place in places], context.recipe.data, self.name)

    def measure(self, context: Context, errors: list[tuple[float, float]]) -> None:
        """Put on the record how much less the layers' outputs err than with weights rounded to nearest.

        Args:
            errors: for each layer its output's mean squared error, and that of rounding to nearest.
        """
        if errors:
            ours, nearest = (sum(column) for column in zip(*errors, strict=True))
            context.measured(output_error_over_rounding_to_nearest=ours / max(nearest, 1e-30))

    def unseen(self, layer: Any, place: Place, context: Context) -> Any:
        """The quantized layer of one that no batch reached."""
        from gearshift.quant.rounding.least_squares import least_squares

        context.note(f"No calibration data reached {place}, so it was rounded without.")
        return self.fitted_layer(layer, least_squares, context)


def token_batches(model: Any, context: Context) -> list[dict[str, Any]]:
    """What a language model is calibrated on, as arguments: windows of the texts that were given, or of its own.

    Strings (with the recipe's tokenizer) and token tensors are joined and cut into windows, dicts of arguments are
    taken as they are. A model that is given nothing writes its own text, from the recipe's seed on.

    Raises:
        BadRecipe: for data that cannot be read.
    """
    import torch

    from gearshift.training.language import own_text, window_of, windows

    recipe, two_halves = context.recipe, bool(getattr(model.config, "is_encoder_decoder", False))
    if recipe.data is None and two_halves:
        make = made_up(model, recipe.seed)
        if make is None:
            raise BadRecipe([f"Calibration needs `data`: {type(model).__name__} cannot write its own."])
        context.note(f"No data was given, so calibration read random tokens and what the model made of them. {BETTER}")
        return make()
    if recipe.data is None:
        text = own_text(model, window_of(model), recipe.seed)
        context.note(
            f"No data was given, so calibration read {len(text)} texts of {text.shape[1]} tokens that the model wrote "
            f"itself, from random first tokens (seed {recipe.seed}). {BETTER}"
        )
    elif two_halves or not _is_text(recipe.data):
        found = readable(model, context) or []
        return [dict(item) if isinstance(item, Mapping) else {"input_ids": item} for item in found]
    else:
        tokens = windows(recipe.data, recipe.tokenizer, 1).flatten()
        length = min(window_of(model), len(tokens))
        text = tokens[: len(tokens) // length * length].view(-1, length)[:MOST]
    context.measured(calibrated_on=f"{len(text)} windows of {text.shape[1]} tokens")
    device = next(model.parameters()).device
    return [{"input_ids": part.to(device)} for part in torch.as_tensor(text).split(BATCH)]


def _is_text(data: Any) -> bool:
    """Whether it is a list of nothing but strings and token tensors."""
    import torch

    def plain(item: Any) -> bool:
        return isinstance(item, str) or (isinstance(item, torch.Tensor) and not item.is_floating_point())

    return isinstance(data, Sequence) and not isinstance(data, str) and all(map(plain, data))


def _brief(batch: dict[str, Any]) -> dict[str, Any]:
    """One short sequence of a batch, if it is one of tokens and nothing else."""
    return {k: v[:1, :SHORT] for k, v in batch.items()} if batch.keys() == {"input_ids"} else batch
