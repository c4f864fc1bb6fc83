"""How long something takes in each gear, with the gears where they stand: inside of whole calls, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from gearshift.core.errors import BadValue
from gearshift.measure.in_place import Seconds, spread
from gearshift.measure.timing import clock
from gearshift.models.example import example_call, layer_inputs
from gearshift.precision.gears import LOW, Geared, can_gear, geared, high_gear
from gearshift.precision.levels import Precision

BUDGET = 2.0  # seconds for the turns
TURNS = 3  # at the least


class ForcedGear(Geared):
    """A gear that is put in by hand, whatever run there is.

    Attributes:
        gear: the low precision to multiply in; any other: the module's own.
    """

    gear: Precision | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.gear in LOW:
            return self._low(args[0] if args else kwargs["input"], self.gear)
        return self.compute(*args, **kwargs)


def time_gears(
    call: Callable[[], Any], layers: Sequence[Any], watched: Sequence[nn.Module] = ()
) -> dict[Precision, Seconds]:
    """Seconds of a call in each gear, beside those in the high gear, after one of each to warm up.

    The gears take turns until each is farther from the high one than the turns scatter, or the budget is spent.

    Args:
        call: runs the layers in their places.
        layers: of which `can_gear` holds; they have their own forwards again at the end.
        watched: only the seconds inside of these modules count; none: all of the call.
    """
    gates = [gate for gate in geared(layers, kind=ForcedGear) if isinstance(gate, ForcedGear)]
    own = high_gear(layers[0])
    turns: dict[Precision, list[float]] = {precision: [] for precision in (*LOW, own)}
    with _standing(gates), torch.no_grad():
        for precision in turns:
            _one(call, gates, precision, watched)
        started = time.perf_counter()
        while _is_open(turns, own) and (len(turns[own]) < TURNS or time.perf_counter() - started < BUDGET):
            for precision, taken in turns.items():
                taken.append(_one(call, gates, precision, watched))
    return {precision: _beside(turns[own], taken) for precision, taken in turns.items()}


def time_layers(model: Any, device: Any = None, data: Any = None) -> dict[Precision, float]:
    """Seconds that a model's layers take together in each gear, inside of one example call.

    Args:
        model: a pipeline or a module.
        device: where to measure; the model has to be there. None: where it is.
        data: as in `optimize`: a list whose first item is a dict of the model's arguments.

    Raises:
        BadValue: if the model is on another device, or nothing is known that it could be called with.
    """
    inputs = {layer: x for layer, x in layer_inputs(model, data).items() if can_gear(layer)}
    call = example_call(model, data)
    if not inputs or call is None:
        raise BadValue(
            f"Nothing is known that {type(model).__name__} could be called with; give its arguments as data."
        )
    there = next(iter(inputs.values())).device
    if device is not None and torch.device(device).type != there.type:
        raise BadValue(f"The model is on {there}; move it to {device} to measure it there.")
    return {precision: took.now for precision, took in time_gears(call, list(inputs), list(inputs)).items()}


@contextmanager
def _standing(gates: Sequence[Geared]) -> Iterator[None]:
    stood = []
    try:
        for gate in gates:
            stood.append(gate)
            gate.attach()
        yield
    finally:
        for gate in stood:
            gate.detach()


def _one(
    call: Callable[[], Any], gates: Sequence[ForcedGear], precision: Precision, watched: Sequence[nn.Module]
) -> float:
    """Seconds of one call in a gear, or of the watched modules in it."""
    for gate in gates:
        gate.gear = precision
    tick, spent = clock(), 0.0
    since: dict[Any, float] = {}

    def enter(module: Any, _: Any) -> None:
        since[module] = tick()

    def leave(module: Any, *_: Any) -> None:
        nonlocal spent
        spent += tick() - since[module]

    handles = [h for m in watched for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        start = tick()
        call()
        return spent if watched else tick() - start
    finally:
        for handle in handles:
            handle.remove()


def _is_open(turns: dict[Precision, list[float]], own: Precision) -> bool:
    """Whether more turns could tell a low gear from the high one."""
    few = len(turns[own]) < TURNS
    return few or any(_beside(turns[own], turns[precision]).is_noise for precision in LOW)


def _beside(high: list[float], taken: list[float]) -> Seconds:
    return Seconds(median(high), median(taken), max(spread(high), spread(taken)))
