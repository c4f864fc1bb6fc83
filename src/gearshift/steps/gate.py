"""Gate: stands where a module's forward stood. Names in the state dict, the type and deepcopy stay as they were."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gearshift.steps.rule import Place, Rule
from gearshift.steps.run import Run, current


class Gate:
    """A callable set as `module.forward`.

    torch.compile gets what stands behind it, through `compiled`; it is traced itself only while it is `told`.

    Attributes:
        module: the module it stands in.
        own: its class's forward; torch.compile cannot look that up on every class.
        behind: a forward that was set on the module before (offloading hooks do so); None: the class's own.
        compiled: a compiled stand-in for the forward, or None.
        rule: the rule that decides here; None lets every call through.
        place: the gates it shares an output with.
        told: what to do in a pass that was foreseen (see `foreseen.Told`); goes before the rule.
    """

    traced = False  # whether torch.compile may look into it

    def __init__(self, module: Any) -> None:
        self.module = module
        self.own: Callable[..., Any] = type(module).forward
        self.behind: Callable[..., Any] | None = None
        self.compiled: Callable[..., Any] | None = None
        self.rule: Rule | None = None
        self.place: Place | None = None
        self.told: Any = None

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """What stands behind the gate."""
        behind = self.compiled or self.behind
        if behind is not None:
            return behind(*args, **kwargs)
        return self.own(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.told is not None:
            return self.told.answer(self, args, kwargs)
        if self.rule is None:
            return self.compute(*args, **kwargs)
        run = current()
        if run is None or run.branch is None:
            return self.compute(*args, **kwargs)
        return self.rule.call(run, self, args, kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.behind or self.own.__get__(self.module))

    def prepare(self, run: Run | None) -> None:
        """Called before a graph is traced that looks into this gate, with the run that it will serve."""

    def stand(self) -> None:
        """Take the place of the module's forward."""
        if gate_of(self.module) is not self:
            self.behind = vars(self.module).get("forward")
            vars(self.module)["forward"] = self

    def leave(self) -> None:
        """Give the place back, also from under hooks that were put on afterwards."""
        held = vars(self.module)
        for name in ("forward", "_old_forward"):
            if held.get(name) is self:
                if self.behind is not None or name == "_old_forward":
                    held[name] = self.behind or self.own.__get__(self.module)
                else:
                    del held[name]


def gate_of(module: Any) -> Gate | None:
    """The gate that stands in a module, under later hooks too."""
    for name in ("forward", "_old_forward"):
        found = vars(module).get(name)
        if isinstance(found, Gate):
            return found
    return None
