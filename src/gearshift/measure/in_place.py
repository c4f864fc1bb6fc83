"""How fast layers are where they stand: timed inside of whole calls, in turns with the layers they replace."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from gearshift.core.target import put
from gearshift.measure.timing import clock

BUDGET = 2.0  # seconds for the turns
LONG = 10.0  # seconds of a call above which one turn has to do
TURNS = 3  # at the least for shorter ones


class Pair(NamedTuple):
    """Two layers for one place of a module: what stands there, and what is to.

    Layers of one kind, which are alike in class and sizes, are timed together: small ones take too little for a clock.
    """

    root: Any
    path: str
    before: Any
    now: Any

    @property
    def kind(self) -> Hashable:
        return type(self.before), type(self.now), *self.before.weight.shape, getattr(self.before, "stride", None)


@dataclass(frozen=True)
class Seconds:
    """Seconds of something with the layers as they were, and with those that replace them: the median of some turns.

    Attributes:
        spread: the largest distance of a turn from the median, as a part of it; of the noisier side.
    """

    before: float
    now: float
    spread: float

    @property
    def speed(self) -> float:
        """How many times as fast it is now."""
        return self.before / max(self.now, 1e-9)

    @property
    def is_noise(self) -> bool:
        """Whether the turns differ from each other as much as the two sides do."""
        return abs(self.speed - 1) <= self.spread


@dataclass(frozen=True)
class Timed:
    """What calls in turns took: the layers of each kind that a call reaches, all such layers, and the whole call."""

    kinds: dict[Hashable, Seconds]
    layers: Seconds
    whole: Seconds


def timed_in_place(call: Callable[[], Any], pairs: Sequence[Pair], budget: float = BUDGET) -> Timed:
    """Time a model's call with the former and the present layers, each layer inside of the whole.

    Both sides are called once to warm up, then they take turns, until the whole calls are farther apart than they
    scatter or the budget is spent. CPU time where torch has one thread (other programs disturb it less), else wall
    clock. The former layers stand in their places at the end, whatever happens.

    Args:
        call: runs the model once.
        budget: seconds for the turns. Three of each are made at the least, or one if a call takes over ten seconds.
    """
    turns: list[tuple[_Turn, _Turn]] = []
    with _standing(pairs) as stand:
        for now in (False, True):
            stand(now)
            warm = _turn(call, pairs, now)
        started = time.perf_counter()
        least = 1 if warm.whole > LONG else TURNS
        while len(turns) < least or (_whole(turns).is_noise and time.perf_counter() - started < budget):
            sides = []
            for now in (False, True):
                stand(now)
                sides.append(_turn(call, pairs, now))
            turns.append((sides[0], sides[1]))
    kinds = {kind: _seconds([(a.kinds[kind], b.kinds[kind]) for a, b in turns]) for kind in turns[0][0].kinds}
    layers = _seconds([(sum(a.kinds.values()), sum(b.kinds.values())) for a, b in turns])
    return Timed(kinds, layers, _whole(turns))


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds that a call takes, after one to warm up: the median of a few, or one if it is long."""
    import torch

    tick, taken = clock(), list[float]()
    with torch.no_grad():
        call()
        while len(taken) < TURNS and sum(taken) < LONG:
            start = tick()
            call()
            taken.append(tick() - start)
    return median(taken)


class _Turn(NamedTuple):
    kinds: dict[Hashable, float]
    whole: float


def _turn(call: Callable[[], Any], pairs: Sequence[Pair], now: bool) -> _Turn:
    """One call with a stopwatch at each layer."""
    import torch

    tick = clock()
    spent: dict[Hashable, float] = {}
    since: dict[Any, float] = {}

    def enter(layer: Any, _: Any) -> None:
        since[layer] = tick()

    def leave(kind: Hashable) -> Callable[..., None]:
        def hook(layer: Any, *_: Any) -> None:
            spent[kind] = spent.get(kind, 0.0) + tick() - since[layer]

        return hook

    handles = []
    try:
        for pair in pairs:
            layer = pair.now if now else pair.before
            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave(pair.kind))]
        with torch.no_grad():
            start = tick()
            call()
            whole = tick() - start
    finally:
        for handle in handles:
            handle.remove()
    return _Turn(spent, whole)


@contextmanager
def _standing(pairs: Sequence[Pair]) -> Iterator[Callable[[bool], None]]:
    """A function that puts one side's layers in their places; the former ones are there at the end."""

    def stand(now: bool) -> None:
        for pair in pairs:
            put(pair.root, pair.path, pair.now if now else pair.before)

    try:
        yield stand
    finally:
        stand(False)


def _whole(turns: Sequence[tuple[_Turn, _Turn]]) -> Seconds:
    return _seconds([(before.whole, now.whole) for before, now in turns])


def _seconds(turns: Sequence[tuple[float, float]]) -> Seconds:
    before, now = [a for a, _ in turns], [b for _, b in turns]
    return Seconds(median(before), median(now), max(spread(before), spread(now)))


def spread(turns: Sequence[float]) -> float:
    """The largest distance of a turn from the median, as a part of it."""
    middle = median(turns)
    return max(abs(turn - middle) for turn in turns) / max(middle, 1e-9)
