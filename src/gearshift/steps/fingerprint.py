"""What a module's output depends on besides its arguments: its structure, its attributes, its weights, hooks inside.

Graphs have all of that baked in, so they are told when any of it was changed.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from gearshift.steps.attribute_texts import AttributeTexts
from gearshift.steps.chain import Link, is_own
from gearshift.steps.predecided_pass import Pass
from gearshift.steps.run import current
from gearshift.steps.weight_state import WeightState

TABLES = ("_parameters", "_buffers", "_modules", "_forward_pre_hooks", "_forward_hooks")
OFFLOADING, REGISTRY = "_hf_hook", "_diffusers_hook"  # where accelerate and diffusers keep their hooks
OURS_AND_THEIRS = {"_gearshift_record", "forward", "_old_forward", OFFLOADING, REGISTRY}
NO_ATTRIBUTES = {*vars(nn.Module()), *OURS_AND_THEIRS} - {"training"}
LASTING = 4  # calls after which a state was worth a graph
LONGEST = 64  # calls that a state has to last at most, where the ones before did not


@dataclass(frozen=True)
class Mark:
    """One state of a module; equal where graphs can be the same.

    Attributes:
        structure: classes, hooks and forwards of the modules inside; equal in other processes too.
        form: structure and attributes, likewise.
        weights: where they are and what they hold.
    """

    structure: str
    form: str
    weights: int


@dataclass(eq=False)
class State:
    """A module as it was looked at.

    Attributes:
        hooks: whose hooks or gates sit on modules inside, where a graph would go on with what they did once; '': none.
        facts: what each part of the form was, by name.
    """

    mark: Mark
    hooks: str
    facts: dict[str, str]
    weights: WeightState
    tables: list[Iterable[Any]]

    def __post_init__(self) -> None:
        self.values = list(chain.from_iterable(self.tables))

    @property
    def holds(self) -> bool:
        """Whether no attribute and no tensor was replaced since."""
        try:
            return bool(list(chain.from_iterable(self.tables)) == self.values)
        except (RuntimeError, ValueError, TypeError):  # other tensors or arrays, whose equality has no single truth
            return False


class Fingerprint:
    """Notices changes of a module from call to call.

    A call costs a glance at every attribute and weight. In-place writes through `.data`, which leave no trace, are
    found by what the weights hold: all of it at the first call of a sampling run, a sample at other calls on a CPU.

    Args:
        weights: whether weights count too.

    Attributes:
        changed: the names of what differs from the state before.
        patience: calls that a state has to last to be worth a graph; more where states came and went.
    """

    def __init__(self, module: nn.Module, weights: bool = True) -> None:
        self.module, self.with_weights = module, weights
        self.changed: list[str] = []
        self._state: State | None = None
        self._runs: Any = weakref.WeakSet()
        self._own: set[str] = set()
        self._calls, self.patience = 0, 1

    def now(self) -> State:
        """The state of the module at a call."""
        run, state = current(), self._state
        first = run is None or run not in self._runs
        if run is not None and first:
            self._runs.add(run)
        if state is None or not state.holds or (self.with_weights and not state.weights.holds(first, run is not None)):
            state = self._looked()
        self._calls += 1
        return state

    @property
    def lasts(self) -> bool:
        """Whether the state has lasted long enough for a graph, as states of this module do."""
        return self._calls >= self.patience

    def watch_weights(self, on: bool) -> None:
        """Whether weights count from the next call on."""
        if on != self.with_weights:
            self.with_weights, self._state = on, None

    def forgive(self) -> State:
        """Take what was changed since the last call for the module's own doing, and look past it from now on."""
        before, kept = self._state, (self.changed, self.patience, self._calls)
        state = self._looked()
        if before is not None and state.mark.form != before.mark.form:
            self._own.update(self.changed)
            state = self._looked()
        self.changed, self.patience, self._calls = kept
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_state": None, "_runs": None}

    def __setstate__(self, held: dict[str, Any]) -> None:
        vars(self).update(held, _runs=weakref.WeakSet())

    def _looked(self) -> State:
        before, self._state = self._state, look(self.module, self._own, self.with_weights)
        if before is not None and before.mark != self._state.mark:
            old, new = before.facts, self._state.facts
            names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
            self.changed = names or ["weights"]
            self.patience = 1 if self._calls >= LASTING else min(2 * self.patience, LONGEST)
            self._calls = 0
        return self._state


def look(root: nn.Module, own: set[str], weights: bool) -> State:
    """Look at a module and everything in it.

    Args:
        own: names of attributes that the module changes itself.
    """
    heads, gates = {root}, set()  # modules whose own forward is called, and gates that are told what to do
    if isinstance(root, Pass):
        heads, gates = {root, root.module}, {gate for place in root.places for gate in place.gates}
    tokens = AttributeTexts()
    structure: dict[str, str] = {}
    attributes: dict[str, str] = {}
    hooks = ""
    for path, module in root.named_modules():
        held = vars(module)
        tokens.tables += [held.values(), *(held[name].values() for name in TABLES)]
        structure[path] = tokens.of(type(module))
        for name in TABLES[3:]:
            if held[name]:
                structure[f"{path}.{name}"] = tokens.of(list(held[name].values()))
        for name in TABLES[:2]:
            attributes |= {f"{path}.{key}": tokens.of(tensor) for key, tensor in held[name].items()}
        attributes |= {f"{path}.{key}": tokens.of(value) for key, value in held.items() if key not in NO_ATTRIBUTES}
        if module not in heads:
            forward = held.get("forward")
            if not is_own(forward, module):
                structure[f"{path}.forward"] = tokens.of(forward)
            hooks = hooks or _hooks(module, gates)
    facts = {name: fact for name, fact in {**structure, **attributes}.items() if name not in own}
    mark = Mark(_digest(structure), _digest(facts), 0)
    found = WeightState(tokens.tensors if weights else [])
    return State(Mark(mark.structure, mark.form, found.digest), hooks, facts, found, tokens.tables)


def _hooks(module: nn.Module, gates: set[Any]) -> str:
    """Whose hooks or gates on a module do more than a graph of it could."""
    held = vars(module)
    if OFFLOADING in held:
        return "accelerate"
    if getattr(held.get(REGISTRY), "hooks", None):
        return "diffusers"
    gate = held.get("forward")
    if isinstance(gate, Link) and getattr(gate, "rule", None) is not None and gate not in gates:
        return "gearshift"
    return ""


def _digest(facts: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:24]
