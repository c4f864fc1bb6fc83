"""Gate: stands where a module's forward stood. Names in the state dict, the type and deepcopy stay as they were."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from gearshift.steps.chain import Link, innermost, is_own, links, slots
from gearshift.steps.rule import GateGroup, Rule
from gearshift.steps.run import Run, current


class Gate(Link):
    """A callable that stands in front of the forward of a module's class, inside of others' hooks on that module.

    So hooks go around gates whichever came first, and taking them off leaves the gates. Hooks of what is filled in run
    too: those of offloading fetch the next block's weights, which may be one that computes. torch.compile gets what
    stands behind a gate, through `compiled`; it is traced itself only while it has an `override`.

    Attributes:
        module: the module it stands in.
        class_forward: its class's forward; torch.compile cannot look that up on every class.
        wrapped_forward: a forward that somebody set on the module before; None: the class's own.
        on: it stands; else, where somebody's function still holds it, it only hands calls on.
        compiled: a compiled stand-in for the forward, or None.
        rule: the rule that decides here; None lets every call through.
        place: the gates it shares an output with.
        override: what to do in a predecided pass (see `predecided_pass.PassOverride`); goes before the rule.
    """

    traced = False  # whether torch.compile may look into it

    def __init__(self, module: Any) -> None:
        self.module = module
        self.class_forward: Callable[..., Any] = type(module).forward
        self.wrapped_forward: Callable[..., Any] | None = None
        self.on = False
        self.compiled: Callable[..., Any] | None = None
        self.rule: Rule | None = None
        self.place: GateGroup | None = None
        self.override: Any = None

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """What stands behind the gate."""
        behind = self.compiled or self.wrapped_forward
        if behind is not None:
            return behind(*args, **kwargs)
        return self.class_forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.override is not None:
            return self.override.answer(self, args, kwargs)
        if self.rule is None:
            return self.compute(*args, **kwargs)
        run = current()
        if run is None or run.branch is None:
            return self.compute(*args, **kwargs)
        return self.rule.call(run, self, args, kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.wrapped_forward or self.class_forward.__get__(self.module))

    def prepare(self, run: Run | None) -> None:
        """Called before a graph is traced that looks into this gate, with the run that it will serve."""

    def attach(self) -> None:
        """Take the place in front of the module's own forward, unless it is there already."""
        if not self.is_reached:
            self.link()
        self.on = True

    def link(self) -> None:
        """Go in front of the module's own forward, or of one that somebody set and that cannot be looked into."""
        places = innermost(self.module)
        held = places[0].held
        self.wrapped_forward = None if is_own(held, self.module) else held
        for slot in places:
            slot.put(self, self.module)

    def detach(self) -> None:
        """Give the place back, whatever hooks were put around it since."""
        self.on = False
        for slot in slots(self.module):
            if slot.held is self:
                slot.put(self.wrapped_forward, self.module)
            elif isinstance(slot.held, partial):
                self._forget_in(slot.held)

    def _forget_in(self, hook: partial[Any]) -> None:
        """Let a hook that was put around this gate keep none of its attributes, which functools copied to it."""
        copied = vars(hook)
        if copied.get("__wrapped__") is self:
            for name in vars(self):
                copied.pop(name, None)
            copied["__wrapped__"] = self.wrapped_forward or self.class_forward.__get__(self.module)

    @property
    def is_reached(self) -> bool:
        """Whether calls of the module get here; somebody may have set another forward, or taken a hook off."""
        return vars(self.module).get("forward") is self or any(link is self for link in links(self.module))


def gate_of(module: Any) -> Gate | None:
    """The outermost gate that stands in a module."""
    held = vars(module).get("forward")
    if held is None:
        return None
    if isinstance(held, Gate) and held.on:
        return held
    return next((link for link in links(module) if isinstance(link, Gate) and link.on), None)
