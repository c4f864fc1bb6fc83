"""8-bit and 4-bit weights with our own kernels, for language models on CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from gearshift.algorithms.common.tied_weights import shares_weight, untie
from gearshift.algorithms.quantizers import LANGUAGE, sqnr, tell_activations
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Persist, Slot, Stage, Trait
from gearshift.core.model import size_bytes
from gearshift.core.param import param
from gearshift.core.plain import PARTS, dict_of, whole
from gearshift.core.progress import track
from gearshift.core.recipe import Recipe
from gearshift.core.target import Swap, matches

GROUP = 64
HEAD_BITS = 8  # on a small trained model a 4-bit head moved the probabilities a third as far again as 4 bits elsewhere
SECONDS = 0.5  # for timing a token


class IpexLlm(Algorithm):
    """8-bit or 4-bit weights for decoding on CPUs, where reading the weights is what takes the time.

    Named after Intel's library, which is archived; the kernels are our own, compiled for the CPU at hand at first use.
    Linear layers are replaced, the output head among them, which has 8 bits in any case; embeddings keep their floats.
    Activations stay floats, but that for few tokens 4-bit layers round them to 8 bits, a step for every 64.
    """

    facts = Facts(
        family=Family.COMPILER,
        stage=Stage.COMPILE,
        persist=Persist.WEIGHTS,
        occupies={Slot.RUNTIME},
        needs={Trait.TORCH_FORWARD, Trait.LINEAR, Trait.FLOAT_WEIGHTS},
        removes={Trait.FLOAT_WEIGHTS},
        kinds=LANGUAGE,
        devices=("cpu",),
    )
    weight_bits: int = param(8, choices=(8, 4), help="width of the weights")

    saved_fields: ClassVar = {"parts": PARTS, "paths": dict_of(whole(1, 8))}

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.kernels.cpu.weight_only import problem
        from gearshift.layers.linear_view import as_linear, in_place_of, linear_types
        from gearshift.layers.weight_only import from_float
        from gearshift.models.describe import passed_over

        size, seconds, noise = size_bytes(model), token_seconds(model), []
        tied = shares_weight(model)
        paths: dict[str, int] = {}
        made_layers: list[Any] = []
        for path, bits in track(self._layers(model, context.recipe), f"{self.name} makes layers"):
            layer = model.get_submodule(path)
            linear = as_linear(layer)
            made = from_float(linear, bits, GROUP, context.recipe.exportable)
            quantized = in_place_of(layer, made)
            noise.append(sqnr(layer.weight, quantized.weight))
            context.change(Swap(model, path, quantized, layer if context.keep_original else None, self.name))
            paths[path] = made.bits
            made_layers.append(made)
        untie(model, context, tied)
        context.save(parts=[""], paths=paths)
        context.measured(left=passed_over(model, linear_types(), context.recipe))
        context.measured(layers=len(paths), size_before=size, size_after=size_bytes(model))
        context.measured(
            sqnr_mean=sum(noise) / max(len(noise), 1), token_speed_over_float=seconds / token_seconds(model)
        )
        tell_activations(context, made_layers)
        self._tell(context, problem())

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.layers.linear_view import as_linear, in_place_of
        from gearshift.layers.weight_only import empty

        for path, bits in context.saved["paths"].items():
            layer = model.get_submodule(path)
            quantized = in_place_of(layer, empty(as_linear(layer), bits, GROUP))
            context.change(Swap(model, path, quantized, None, self.name))

    def _layers(self, model: Any, recipe: Recipe) -> Iterator[tuple[str, int]]:
        """Paths of the layers that are replaced, with their bits."""
        from gearshift.layers.linear_view import linear_types
        from gearshift.models.describe import chosen

        head = _head(model)
        for _, _, path in chosen(model, linear_types(), recipe):
            yield path, HEAD_BITS if path == head else self.weight_bits
        if head is not None and not recipe.include and not matches(head, recipe.exclude):
            yield head, HEAD_BITS

    def _tell(self, context: Context, problem: str | None) -> None:
        figures = context.applied.figures  # type: ignore[union-attr]
        ratio = figures["token_speed_over_float"]
        if not figures["layers"]:
            context.warn(f"{self.name} replaced no layer: the model has no linear layer that the recipe leaves to it.")
        elif problem is not None:
            context.warn(f"{self.name} runs without its kernels and decodes at {ratio:.2f} times the speed. {problem}")
        elif ratio < 1:
            context.warn(
                f"{self.name} saves memory here, but a token takes {1 / ratio:.2f} times as long as before: weights "
                "that fit in the CPU's caches are read no faster for being small."
            )


def token_seconds(model: Any) -> float:
    """The least seconds of one token through the model; CPU time where torch has one thread, else wall clock."""
    import torch

    from gearshift.measure.timing import fastest_calls

    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    call = {"input_ids": token} | ({"decoder_input_ids": token} if model.config.is_encoder_decoder else {})
    seconds = fastest_calls({"token": lambda token: model(**token)}, call, 1000 * SECONDS, least=1)
    return max(seconds["token"], 1e-9)


def _head(model: Any) -> str | None:
    """Path of the output head, if it is a plain linear layer."""
    from torch import nn

    head = model.get_output_embeddings()
    return next((path for path, module in model.named_modules() if module is head and type(head) is nn.Linear), None)
