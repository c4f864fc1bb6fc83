"""One pass through a denoiser in which the gates inside are told beforehand what to do.

So a graph may look through them: there is one of a pass that computes every place and gives what each put out, and one
of a pass that is given that and computes only what lies around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from threading import RLock
from typing import Any

import torch
from torch import nn

from gearshift.steps.gate import Gate
from gearshift.steps.rule import OutputRule, Place
from gearshift.steps.run import current

_ALONE = RLock()


class Told:
    """What the gates of one place do in a pass: answer with `filling`, or compute and keep the output in `taken`.

    A place that a pass goes through a second time computes.
    """

    def __init__(self, place: Place, filling: Any = None) -> None:
        self.place = place
        self.filling = filling
        self.taken: Any = None
        self.rounds = 0

    def answer(self, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        self.rounds += gate is self.place.gates[0]
        if self.filling is not None and self.rounds < 2:
            return self.filling
        output = gate.compute(*args, **kwargs)
        if gate is self.place.gates[-1] and self.rounds < 2:
            self.taken = output
        return output


class Pass(nn.Module):
    """A module's own forward with its gates told; one at a time, unless a compiler only looks at it."""

    def __init__(self, module: nn.Module, places: list[Place]) -> None:
        super().__init__()
        self.module, self.places, self.training = module, places, module.training

    def told(self, fillings: Sequence[Any], args: tuple, kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The output, and what each place that was computed put out."""
        with nullcontext() if torch.compiler.is_compiling() else _ALONE:
            told = [Told(place, filling) for place, filling in zip(self.places, fillings, strict=True)]
            for each in told:
                for gate in each.place.gates:
                    gate.told = each
            try:
                output = type(self.module).forward(self.module, *args, **kwargs)
            finally:
                for each in told:
                    for gate in each.place.gates:
                        gate.told = None
            return output, [each.taken for each in told]


class Computing(Pass):
    """A pass that computes every place; gives the output and what the places put out (None: never got to)."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        return self.told([None] * len(self.places), args, kwargs)


class Filling(Pass):
    """A pass with the outputs of the places given; None for one that is computed."""

    def forward(self, fillings: list[Any], *args: Any, **kwargs: Any) -> Any:
        output, _ = self.told(fillings, args, kwargs)
        return output


class Foreseen:
    """Stands behind a denoiser's gate: the rule inside decides for all its places, then one of two passes runs.

    Args:
        rule: the one at all gates inside.
        places: its places.
        make: gives the compiled stand-in for a module.
    """

    def __init__(
        self, module: nn.Module, rule: OutputRule, places: list[Place], make: Callable[[nn.Module], Callable[..., Any]]
    ) -> None:
        self.rule, self.places = rule, places
        self.computing, self.filling = make(Computing(module, places)), make(Filling(module, places))
        self.reached = list(range(len(places)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or run.branch is None:
            return self.computing(*args, **kwargs)[0]
        fillings = self.rule.foresee(run, [self.places[i] for i in self.reached], args, kwargs)
        if fillings is not None:
            given = dict(zip(self.reached, fillings, strict=True))
            return self.filling([given.get(i) for i in range(len(self.places))], *args, **kwargs)
        output, taken = self.computing(*args, **kwargs)
        self.reached = [i for i, put_out in enumerate(taken) if put_out is not None]
        self.rule.keep(run, [(self.places[i], taken[i]) for i in self.reached])
        return output


def one_rule(gates: Sequence[Gate]) -> tuple[OutputRule, list[Place]] | None:
    """The rule and the places of gates that all follow one; None if passes through them cannot be foreseen."""
    rules = {gate.rule for gate in gates}
    places = list(dict.fromkeys(gate.place for gate in gates))
    (rule, *others) = rules
    whole = all(place is not None and set(place.gates) <= set(gates) for place in places)
    if others or not isinstance(rule, OutputRule) or not whole or any(gate.behind for gate in gates):
        return None
    return rule, [place for place in places if place is not None]
