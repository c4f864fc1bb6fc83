"""One pass through a denoiser in which the gates inside are told beforehand what to do.

So a graph may look through them: one of a pass that computes every place also gives what each put out, and one of a
pass that fills in is given that and computes only what lies around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from threading import RLock
from typing import Any

import torch
from torch import nn

from gearshift.steps.gate import Gate
from gearshift.steps.rule import GateGroup, OutputRule
from gearshift.steps.run import Run, current

_ALONE = RLock()


class PassOverride:
    """What the gates of one place do in a pass: answer with `filling`, or compute and keep the output in `taken`.

    A place that a pass goes through a second time computes.
    """

    def __init__(self, place: GateGroup, filling: Any = None) -> None:
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
    """A module's own forward with its gates overridden; one at a time, unless a compiler only looks at it.

    Attributes:
        filled: for each place whether it is given what to fill in.
    """

    def __init__(self, module: nn.Module, places: list[GateGroup], filled: tuple[bool, ...]) -> None:
        super().__init__()
        self.module, self.places, self.filled, self.training = module, places, filled, module.training
        self.class_forward = type(module).forward  # looked up here, as torch.compile cannot do so on every class

    def forward(self, fillings: list[Any], *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """The output, and what each place put out (None: it was filled in, or never got to).

        Args:
            fillings: one output for each place that is filled in; None for one that is not got to.
        """
        with nullcontext() if torch.compiler.is_compiling() else _ALONE:
            given = list(fillings)
            overrides = [
                PassOverride(p, given.pop(0) if fill else None)
                for p, fill in zip(self.places, self.filled, strict=True)
            ]
            for each in overrides:
                for gate in each.place.gates:
                    gate.override = each
            try:
                output = self.class_forward(self.module, *args, **kwargs)
            finally:
                for each in overrides:
                    for gate in each.place.gates:
                        gate.override = None
            return output, [each.taken for each in overrides]


class PredecidedForward:
    """Stands behind a denoiser's gate: the rules inside decide for all their places, then one kind of pass runs.

    Args:
        rules: the rules at the gates inside, each with its places.
        make: gives the compiled stand-in for a module.
    """

    def __init__(
        self,
        module: nn.Module,
        rules: list[tuple[OutputRule, list[GateGroup]]],
        make: Callable[[nn.Module], Callable[..., Any]],
    ) -> None:
        self.rules = rules
        self.reached = {place for _, places in rules for place in places}
        every, kinds = [p for _, places in rules for p in places], product((False, True), repeat=len(rules))
        self.passes = {kind: make(Pass(module, every, self._filled(kind))) for kind in kinds}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or run.branch is None:
            return self.passes[(False,) * len(self.rules)]([], *args, **kwargs)[0]
        kind, fillings = [], []
        for rule, places in self.rules:
            reached = [place for place in places if place in self.reached]
            found = rule.predecide(run, reached, args, kwargs)
            kind.append(found is not None)
            if found is not None:
                given = dict(zip(reached, found, strict=True))
                fillings += [given.get(place) for place in places]
        output, taken = self.passes[tuple(kind)](fillings, *args, **kwargs)
        self._keep(run, kind, list(taken))
        return output

    def _filled(self, kind: tuple[bool, ...]) -> tuple[bool, ...]:
        """For each place whether its rule fills in."""
        return tuple(fills for fills, (_, places) in zip(kind, self.rules, strict=True) for _ in places)

    def _keep(self, run: Run, kind: list[bool], taken: list[Any]) -> None:
        """Let the rules that computed keep what their places put out."""
        for filled, (rule, places) in zip(kind, self.rules, strict=True):
            put_out = [(place, taken.pop(0)) for place in places]
            if not filled:
                got_to = [(place, output) for place, output in put_out if output is not None]
                self.reached = self.reached.difference(places).union(place for place, _ in got_to)
                rule.keep(run, got_to)


def predecided_rules(gates: Sequence[Gate]) -> list[tuple[OutputRule, list[GateGroup]]]:
    """The rules at these gates and their places; empty if passes through the gates cannot be decided beforehand."""
    found: dict[OutputRule, dict[GateGroup, None]] = {}
    for gate in gates:
        if not isinstance(gate.rule, OutputRule) or gate.place is None or gate.wrapped_forward is not None:
            return []
        found.setdefault(gate.rule, {})[gate.place] = None
    standing = set(gates)
    whole = all(set(place.gates) <= standing for places in found.values() for place in places)
    return [(rule, list(places)) for rule, places in found.items()] if whole else []
