"""Hold and multiply numbers in fewer bits.

`LayerQuantizer` is what all quantizers that replace layers share: which layers, swapping, what is measured and said,
and what a saved folder keeps. One of them is a file with a
`layer_class` and a `layout`, or a `quantized_layer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import ANY_KIND, Facts, Family, Kind, Persist, Slot, Stage, Trait
from gearshift.core.model import parts, size_bytes
from gearshift.core.plain import one_of, saved_layers
from gearshift.core.progress import track
from gearshift.core.target import Swap

if TYPE_CHECKING:
    from gearshift.measure.in_place import Pair, Timed

LANGUAGE = frozenset({Kind.LANGUAGE})
DIFFUSION = frozenset({Kind.DIFFUSION})
WORTH_IT = 1.1  # times as fast as the float layer; below it a gain is within the noise of measuring
SMALL = 1 << 17  # weights of a linear layer that take little memory in float too


def quantizer_facts(kinds: frozenset[Kind] = ANY_KIND, *slots: Slot, **more: Any) -> Facts:
    """What every quantizer that replaces linear layers declares."""
    return Facts(
        family=Family.QUANTIZER,
        stage=Stage.QUANTIZE,
        persist=Persist.WEIGHTS,
        occupies={Slot.WEIGHT_FORMAT, *slots},
        needs={Trait.LINEAR, Trait.FLOAT_WEIGHTS},
        removes={Trait.FLOAT_WEIGHTS},
        kinds=kinds,
        **more,
    )


@dataclass
class Place:
    """Where a layer stands.

    Attributes:
        part: name of the model's part ('' for a module by itself).
        path: of the layer within the part.
        input: the newest input of the layer in an example call, any shape; None if it was not reached.
    """

    part: str
    root: Any
    path: str
    input: Any = None

    @property
    def layer(self) -> Any:
        return self.root.get_submodule(self.path)

    def __str__(self) -> str:
        return f"{self.part}.{self.path}" if self.part else self.path


class LayerQuantizer(Algorithm, base=True):
    """Base of the quantizers that put a layer of fewer bits in a layer's place.

    Attributes:
        untimed: what is said where no layer was timed in its place.
    """

    facts = quantizer_facts()
    untimed: ClassVar[str] = "No example call was at hand, so the speed of the layers was not measured."

    def types(self) -> tuple[type, ...]:
        """Classes of layers that are replaced; of nn.Linear's subclasses those that compute what it does."""
        from gearshift.layers.linear_view import linear_types

        return linear_types()

    def prepare(self, model: Any, context: Context, places: list[Place]) -> Any:
        """What quantizing needs to know of the model as a whole, from calibration for one; nothing by default."""

    def layer_class(self, layer: Any) -> Any:
        """The class of layers that a float layer is replaced with; None if there is none for it."""
        raise NotImplementedError

    def layout(self) -> dict[str, Any]:
        """What of the layers' format follows from this quantizer's parameters."""
        return {}

    def quantized_layer(self, layer: Any, place: Place, prepared: Any, context: Context) -> Any:
        """The layer with fewer bits, whose `weight` reads as the float weight it stands for.

        A layer that cannot be replaced is answered with None, or with the reason as a string.

        Args:
            layer: the one to replace; in a Conv1D's place an nn.Linear with its weight turned to [out, in].
            place: where it stands; `place.layer` is the very layer.
            prepared: what `prepare` answered.
        """
        made = self.layer_class(layer)
        return made and made.from_float(layer, **self.layout())

    def timed_call(self, model: Any, context: Context) -> Callable[[], Any] | None:
        """The call in which layers are timed; None if nothing is known that the model could be called with."""
        from gearshift.models.example import example_call

        return example_call(model, context.recipe.data, context.recipe.batch_size)

    def least_speed(self, layer: Any) -> float | None:
        """How many times as fast as float the new layer has to be in its place to be taken; None: it always is."""
        return None

    saved_fields: ClassVar = saved_layers(one_of(None))
    saved_format: ClassVar[tuple[str, ...]] = ()

    def format(self, quantized: Any) -> Any:
        """What of a layer's format a saved folder keeps, as plain data: `saved_format`; None if that is empty."""
        return {name: value for name, value in quantized.format().items() if name in self.saved_format} or None

    def empty_layer(self, layer: Any, kept: Any) -> Any:
        """A quantized layer of a float layer's sizes that has no storage, for a state dict to be assigned to."""
        return self.layer_class(layer).empty_like(layer, **{**self.layout(), **(kept or {})})

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.algorithms.common.tied_weights import shares_weight, untie
        from gearshift.layers.linear_view import inside
        from gearshift.measure.in_place import timed_in_place
        from gearshift.models.describe import passed_over

        started, before, tied = time.perf_counter(), size_bytes(model), shares_weight(model)
        report = Report()
        places = self.places(model, context)
        for path, reason in passed_over(model, self.types(), context.recipe).items():
            report.leave(path, reason)
        call = self.timed_call(model, context)
        found = self._quantized(model, context, places, report)
        stay = self._worth_it(call, found, report)
        timed = timed_in_place(call, [pair for _, pair in stay]) if call is not None and stay else None
        kept: dict[str, dict[str, Any]] = {place.part: {} for place in places}
        for place, (root, path, layer, quantized) in stay:
            report.take(place, layer, quantized)
            kept[place.part][path] = self.format(inside(quantized))
            context.change(Swap(root, path, quantized, layer if context.keep_original else None, self.name))
        untie(model, context, tied)
        context.save(parts=list(kept), paths=kept)
        context.measured(size_before=before, size_after=size_bytes(model), seconds=time.perf_counter() - started)
        report.tell(context, self.name, timed, self.untimed)

    def _quantized(self, model: Any, context: Context, places: list[Place], report: Report) -> list[tuple[Place, Pair]]:
        """Each layer that can be replaced, with what would replace it."""
        from gearshift.layers.linear_view import as_linear, in_place_of
        from gearshift.measure.in_place import Pair

        prepared, found = self.prepare(model, context, places), []
        for place in track(places, f"{self.name} makes layers"):
            layer = place.layer
            made = self.quantized_layer(as_linear(layer), place, prepared, context)
            place.input = None
            if made is None or isinstance(made, str):
                report.leave(place, made or "there is no such layer of fewer bits for it")
            else:
                found.append((place, Pair(place.root, place.path, layer, in_place_of(layer, made))))
        return found

    def _worth_it(self, call: Any, found: list[tuple[Place, Pair]], report: Report) -> list[tuple[Place, Pair]]:
        """Those that are replaced, some of them only if they are fast enough in their places.

        One that was not timed is taken unless it would have to be faster than float; so are slower ones that hold most
        of the weights, for their memory.
        """
        from gearshift.measure.in_place import timed_in_place

        least = [self.least_speed(pair.before) for _, pair in found]
        sizes = [pair.before.weight.numel() for _, pair in found]
        spared = [wanted is not None and wanted <= 1 for wanted in least]
        if sum(size for size, small in zip(sizes, spared, strict=True) if small) > sum(sizes) / 2:
            least = [None if small else wanted for wanted, small in zip(least, spared, strict=True)]
        if call is None or not any(least):
            kinds: dict[Any, Any] = {}
        else:
            kinds = timed_in_place(call, [pair for _, pair in found]).kinds
        stay = []
        for wanted, (place, pair) in zip(least, found, strict=True):
            seconds = kinds.get(pair.kind)
            if wanted is not None and seconds is not None and seconds.speed < wanted:
                speed = f"at {seconds.speed:.2f} times the speed of the float layer"
                report.leave(place, "it would be no faster in calls of the model here", speed)
            elif wanted is not None and seconds is None and wanted > 1:
                report.leave(place, "no example call reached it, so its speed could not be measured")
            else:
                stay.append((place, pair))
        return stay

    def places(self, model: Any, context: Context) -> list[Place]:
        """The layers that a recipe quantizes, each with an input it was seen to have."""
        from gearshift.models.describe import chosen
        from gearshift.models.example import layer_inputs

        seen = layer_inputs(model, context.recipe.data, context.recipe.batch_size)
        found = chosen(model, self.types(), context.recipe)
        return [Place(part, root, path, seen.get(root.get_submodule(path))) for part, root, path in found]

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.algorithms.common.tied_weights import shares_weight, untie
        from gearshift.layers.linear_view import as_linear, in_place_of

        tied = shares_weight(model)
        for part, paths in context.saved["paths"].items():
            root = parts(model)[part]
            for path, kept in paths.items():
                layer = root.get_submodule(path)
                quantized = in_place_of(layer, self.empty_layer(as_linear(layer), kept))
                context.change(Swap(root, path, quantized, None, self.name))
        untie(model, context, tied)


def least_int8_speed(layer: Any) -> float | None:
    """What layers of int8 activations have to gain: convolutions speed, small linear layers at least nothing less."""
    from gearshift.layers.linear_view import is_linear

    if is_linear(layer):
        return 1.0 if layer.weight.numel() <= SMALL else None
    return WORTH_IT


class Report:
    """What was replaced and left, how exact it is, and how fast in calls of the model."""

    def __init__(self) -> None:
        self.sqnr: dict[str, float] = {}
        self.left: dict[str, str] = {}
        self.reasons: dict[str, None] = {}
        self.layers: list[Any] = []

    def leave(self, place: Place | str, reason: str, detail: str = "") -> None:
        self.left[str(place)] = f"{reason}, {detail}" if detail else reason
        self.reasons[reason] = None

    def take(self, place: Place, layer: Any, quantized: Any) -> None:
        self.sqnr[str(place)] = sqnr(layer.weight, quantized.weight)
        self.layers.append(quantized)

    def tell(self, context: Context, name: str, timed: Timed | None, untimed: str) -> None:
        """Put it on the record; warn where the layers, or calls as a whole, are slower than before.

        Args:
            untimed: why there is nothing timed.
        """
        context.measured(layers=len(self.sqnr), left=self.left)
        if not self.sqnr:
            reasons = "; ".join(self.reasons) or "no layer of the model fits what was asked for"
            context.warn(f"{name} replaced no layer: {reasons}.")
            return
        context.measured(sqnr_mean=sum(self.sqnr.values()) / len(self.sqnr), sqnr=self.sqnr)
        tell_activations(context, self.layers)
        if timed is None:
            context.note(untimed)
            return
        speed, whole = timed.layers.speed, timed.whole
        context.measured(linear_speed_over_float=speed, call_speed_over_float=whole.speed, call_spread=whole.spread)
        if speed < 1:
            context.warn(
                f"{name} saves memory here, but its layers run at {speed:.2f} times the speed of float ones, and a "
                f"call of the model at {whole.speed:.2f} times, at the sizes it uses on this machine."
            )


def tell_activations(context: Context, layers: Iterable[Any]) -> None:
    """Say it where layers round not only weights."""
    from gearshift.layers.linear_view import inside

    ways: dict[str, int] = {}
    for quantized in layers:
        way = getattr(inside(quantized), "activations", lambda: None)()
        if way is not None:
            ways[way] = ways.get(way, 0) + 1
    for way, count in ways.items():
        context.note(f"Activations are rounded too, {way} ({count} layers).")


def sqnr(exact: Any, rounded: Any) -> float:
    """Signal over quantization noise of two tensors of one shape, in dB; 200 where they are equal."""
    exact = exact.detach().float()
    noise = (rounded.detach().float().to(exact.device) - exact).square().sum()
    return 200.0 if not noise else float(10 * (exact.square().sum() / noise).log10())
