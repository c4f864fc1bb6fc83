"""The fastest kind of layer in each place, found by timing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from gearshift.algorithms.quantizers import LayerQuantizer, Place, quantizer_facts, sqnr
from gearshift.core.context import Context
from gearshift.core.facts import ANY_KIND, Slot
from gearshift.core.param import param
from gearshift.core.plain import saved_layers, text

LEAST_SQNR = 25.0  # dB of a layer's output for the input it was seen to have; 8-bit floats reach 28, int8 35 to 42
WORTH_IT = 1.1  # times as fast as float; below it the gain is within the noise of measuring
SMALL = 1 << 20  # multiply-adds below which a product takes microseconds, and no other kind of layer is faster
BUDGET = 30.0  # milliseconds for timing one kind of layer at one size
FLOAT = "float"


class TorchaoAutoquant(LayerQuantizer):
    """Replace each linear layer with the fastest kind of layer, measured on this machine at the sizes the model uses.

    Timed are float, gearshift's int8 and 8-bit floats, and torchao's where they have a product of their own. A kind is
    taken where it is 1.1 times as fast as float and its output has an SQNR of 25 dB or more. Timings are kept in the
    user's cache folder. With `compile` the kinds are timed compiled, each alone, and so is the model run; without, what
    is no faster in calls of the whole model stays in float.
    """

    facts = quantizer_facts(ANY_KIND, Slot.RUNTIME)
    compile: bool = param(True, choices=(True, False), help="compile after quantizing")

    saved_fields: ClassVar = saved_layers(text(most=100))
    untimed: ClassVar[str] = (
        "The layers were timed compiled, each alone; whole calls are compiled at their first use and were not timed."
    )

    def prepare(self, model: Any, context: Context, places: list[Place]) -> Trials:
        self._miss_compiler(context)
        trials = context.seen[self.name] = Trials(self._compiles)
        return trials

    def quantized_layer(self, layer: Any, place: Place, prepared: Trials, context: Context) -> Any:
        found = prepared.fastest(layer, place.input)
        if isinstance(found, str):
            return found
        prepared.rows[str(place)] = found.row
        if found.layer is None:
            return "no kind of layer that is near enough was faster"
        found.layer.candidate = found.name
        return found.layer

    def timed_call(self, model: Any, context: Context) -> Callable[[], Any] | None:
        return None if self._compiles else super().timed_call(model, context)

    def least_speed(self, layer: Any) -> float | None:
        return None if self._compiles else WORTH_IT

    def format(self, quantized: Any) -> str:
        return str(quantized.candidate)

    def empty_layer(self, layer: Any, kept: str) -> Any:
        from gearshift.layers.candidates import CANDIDATES

        return CANDIDATES[kept].make(layer.to("meta")).eval()

    def apply(self, model: Any, context: Context) -> None:
        super().apply(model, context)
        trials = context.seen.pop(self.name)
        left = context.applied.figures["left"]  # type: ignore[union-attr]
        for place, row in trials.rows.items():
            if place in left:
                row["chosen"] = FLOAT  # faster alone, but not in its place
        context.measured(choices=trials.rows)
        context.note(f"Timings are kept in {trials.timings.path}.")
        if trials.compiles:
            self._compile(model, context)

    def rebuild(self, model: Any, context: Context) -> None:
        super().rebuild(model, context)
        self._miss_compiler(context)
        if self._compiles:
            self._compile(model, context)

    def _miss_compiler(self, context: Context) -> None:
        if self.compile and not has_compiler():
            context.warn("Nothing is compiled: no C++ compiler was found (install g++ or set CXX).")

    @property
    def _compiles(self) -> bool:
        return self.compile and has_compiler()

    def _compile(self, model: Any, context: Context) -> None:
        from gearshift.algorithms.common.deferred_compile import compile_later

        compile_later(model, context)
        if not context.loading:
            context.note("The first call compiles the model, which takes from seconds to minutes.")


@dataclass
class Found:
    """What was chosen for a layer.

    Attributes:
        name: of the candidate.
        layer: the new one; None: the float one stays.
        row: for the table: what was chosen, the SQNR of its output, and the microseconds of every candidate.
    """

    name: str
    layer: Any
    row: dict[str, Any]


class Trials:
    """Times candidates, each once for each size of layer and input.

    Attributes:
        rows: what was found, by place.
    """

    def __init__(self, compiles: bool) -> None:
        from gearshift.measure.timing import Timings

        self.compiles = compiles
        self.timings = Timings()
        self.rows: dict[str, dict[str, Any]] = {}

    def fastest(self, layer: Any, seen: Any) -> Found | str:
        """The fastest candidate that is near enough to the float layer, or why the layer is left."""
        import torch

        from gearshift.layers.candidates import candidates

        if seen is None:
            return "no call of the model is known in which its speed could be measured; give data"
        if layer.weight.numel() * seen.numel() // seen.shape[-1] < SMALL:
            return "it is too small to gain"
        known = candidates(layer)
        seconds = self._seconds(layer, seen, known)
        row = {f"{name} us": 1e6 * value for name, value in seconds.items()}
        with torch.no_grad():
            exact = layer(seen)
            for name in sorted(known, key=seconds.__getitem__):
                if seconds[FLOAT] < WORTH_IT * seconds[name]:
                    break
                made = known[name].make(layer)
                nearness = sqnr(exact, made(seen))
                if nearness >= LEAST_SQNR:
                    return Found(name, made, {"chosen": name, "sqnr": nearness, **row})
                row[f"{name} sqnr"] = nearness
        return Found(FLOAT, None, {"chosen": FLOAT, **row})

    def _seconds(self, layer: Any, seen: Any, known: dict[str, Any]) -> dict[str, float]:
        from gearshift.measure.timing import compiled, fastest_calls, machine

        here = machine(seen.device)
        sizes = f"{list(layer.weight.shape)}, bias {layer.bias is not None}, input {list(seen.shape)} {seen.dtype}"
        work = f"{sizes}, {'compiled' if self.compiles else 'eager'}"
        seconds = self.timings.get(here, work)
        if not seconds.keys() >= {FLOAT, *known}:
            layers = {FLOAT: layer, **{name: candidate.make(layer) for name, candidate in known.items()}}
            functions = {name: compiled(made) if self.compiles else made for name, made in layers.items()}
            seconds = fastest_calls(functions, seen, BUDGET)
            self.timings.put(here, work, seconds)
        return {name: seconds[name] for name in (FLOAT, *known)}


def has_compiler() -> bool:
    """Whether inductor finds a C++ compiler."""
    return bool(shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++"))
