"""Hold and multiply numbers in fewer bits.

`LayerQuantizer` is what all quantizers that replace layers share: which layers, swapping, what is measured and said,
and what a saved folder keeps. One of them is a file with a `twin` and a `skeleton`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import ANY_KIND, Facts, Family, Kind, Persist, Slot, Stage, Trait

LANGUAGE = frozenset({Kind.LANGUAGE})
DIFFUSION = frozenset({Kind.DIFFUSION})
BUDGET = 20.0  # milliseconds for timing one kind of layer


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
    """Base of the quantizers that put a layer of fewer bits in a layer's place."""

    facts = quantizer_facts()

    def types(self) -> tuple[type, ...]:
        """Classes of layers that are replaced; exactly these, no subclasses."""
        from torch import nn

        return (nn.Linear,)

    def prepare(self, model: Any, context: Context, places: list[Place]) -> Any:
        """What the twins need to know of the model as a whole, from calibration for one; nothing by default."""

    def twin(self, layer: Any, place: Place, prepared: Any, context: Context) -> Any:
        """The layer with fewer bits, whose `weight` reads as the float weight it stands for.

        A layer that cannot be replaced is answered with None, or with the reason as a string.
        """
        raise NotImplementedError

    def keepsake(self, twin: Any) -> Any:
        """Plain data that `skeleton` needs besides the float layer's sizes; None by default."""

    def skeleton(self, layer: Any, kept: Any) -> Any:
        """An empty twin of a float layer that has no storage, for a state dict to be assigned to."""
        raise NotImplementedError

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.core.model import size_bytes
        from gearshift.core.target import Swap

        started, before = time.perf_counter(), size_bytes(model)
        places = self.places(model, context)
        prepared = self.prepare(model, context, places)
        report = Report()
        kept: dict[str, dict[str, Any]] = {place.part: {} for place in places}
        for place in places:
            layer = place.layer
            twin = self.twin(layer, place, prepared, context)
            if twin is None or isinstance(twin, str):
                report.leave(place, twin or "there is no such layer of fewer bits for it")
                continue
            report.take(place, layer, twin)
            place.input = None
            kept[place.part][place.path] = self.keepsake(twin)
            context.change(Swap(place.root, place.path, twin, layer if context.keep_original else None, self.name))
        context.save(parts=list(kept), paths=kept)
        context.measured(size_before=before, size_after=size_bytes(model), seconds=time.perf_counter() - started)
        report.tell(context, self.name)

    def places(self, model: Any, context: Context) -> list[Place]:
        """The layers that a recipe quantizes, each with an input it was seen to have."""
        from gearshift.models.describe import chosen
        from gearshift.models.example import layer_inputs

        seen = layer_inputs(model, context.recipe.data)
        found = chosen(model, self.types(), context.recipe)
        return [Place(part, root, path, seen.get(root.get_submodule(path))) for part, root, path in found]

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.core.model import parts
        from gearshift.core.target import Swap

        for part, paths in context.saved["paths"].items():
            root = parts(model)[part]
            for path, kept in paths.items():
                context.change(Swap(root, path, self.skeleton(root.get_submodule(path), kept), None, self.name))


class Report:
    """What was replaced and left, how exact it is, and how fast at the inputs that the model really gives."""

    def __init__(self) -> None:
        self.sqnr: dict[str, float] = {}
        self.left: dict[str, str] = {}
        self._ratios: dict[tuple, float] = {}
        self._work: list[tuple[float, float]] = []

    def leave(self, place: Place, reason: str) -> None:
        self.left[str(place)] = reason

    def take(self, place: Place, layer: Any, twin: Any) -> None:
        """Compare a twin with its layer, in weights and in time."""
        from gearshift.kernels.speed import compared

        self.sqnr[str(place)] = sqnr(layer.weight, twin.weight)
        if place.input is None:
            return
        key = (type(layer), type(twin), *layer.weight.shape, *place.input.shape)
        if key not in self._ratios:
            self._ratios[key] = compared(layer, twin, place.input, BUDGET)
        rows = place.input.numel() / place.input.shape[-1]
        self._work.append((float(layer.weight.numel() * rows), self._ratios[key]))

    def tell(self, context: Context, name: str) -> None:
        """Put it on the record; warn where the layers together are slower than before."""
        context.measured(layers=len(self.sqnr), left=self.left)
        if not self.sqnr:
            context.warn(f"{name} replaced no layer: {_reasons(self.left)}.")
            return
        context.measured(sqnr_mean=sum(self.sqnr.values()) / len(self.sqnr), sqnr=self.sqnr)
        if not self._work:
            context.note("No example call was at hand, so the speed of the layers was not measured.")
            return
        ratio = sum(w for w, _ in self._work) / sum(w / max(r, 1e-9) for w, r in self._work)
        context.measured(linear_speed_over_float=ratio)
        if ratio < 1:
            context.warn(
                f"{name} saves memory here, but its layers run at {ratio:.2f} times the speed of float ones at the "
                "sizes this model uses on this machine."
            )


def sqnr(exact: Any, rounded: Any) -> float:
    """Signal over quantization noise of two tensors of one shape, in dB; 200 where they are equal."""
    exact = exact.detach().float()
    noise = (rounded.detach().float().to(exact.device) - exact).square().sum()
    return 200.0 if not noise else float(10 * (exact.square().sum() / noise).log10())


def _reasons(left: dict[str, str]) -> str:
    found: Iterable[str] = dict.fromkeys(left.values())
    return "; ".join(found) or "no layer of the model fits what was asked for"
