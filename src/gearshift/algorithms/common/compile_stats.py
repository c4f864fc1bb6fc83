"""What compilers tell the user after they were applied: how many graphs their calls made, and what went otherwise."""

from __future__ import annotations

import types
import warnings
from dataclasses import dataclass, field
from typing import Any

from gearshift.core.context import Context
from gearshift.core.errors import GearshiftWarning
from gearshift.core.record import Applied


def name_of(module: Any) -> str:
    """The class of a module as users know it: of a denoiser for a pass through it."""
    from gearshift.steps.predecided_pass import Pass

    return type(module.module if isinstance(module, Pass) else module).__name__


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@dataclass(eq=False)
class Tally:
    """The status of one algorithm, which later calls add to.

    Attributes:
        applied: its figures 'graphs' and 'recompiles' count up, and its notes take sentences.
        functions: what torch.compile was given, by the class, the kind of pass, the gear and the module's structure.
    """

    applied: Applied
    functions: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @staticmethod
    def of(context: Context) -> Tally:
        assert context.applied is not None
        return Tally(context.applied)

    def function(self, module: Any, gear: Any, structure: str) -> Any:
        """A module's forward with a code object of this model's and gear's own; its modules of one class share it.

        Graphs belong to code objects, and torch allows each only so many: other models' would count.
        """
        forward, key = type(module).forward, (type(module), getattr(module, "filled", None), gear, structure)
        if key not in self.functions:
            code = forward.__code__.replace()
            own = types.FunctionType(code, forward.__globals__, code.co_name, forward.__defaults__, forward.__closure__)
            own.__kwdefaults__ = forward.__kwdefaults__
            self.functions[key] = own
        return self.functions[key]

    def forget(self, module: Any, gear: Any, structure: str) -> None:
        """Give a module's forward a code object anew, whose graphs torch counts from none."""
        self.functions.pop((type(module), getattr(module, "filled", None), gear, structure), None)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "functions": {}}

    def tell(self, sentence: str) -> None:
        """What the user should not miss: said now and kept in the status, once."""
        if sentence not in self.applied.notes:
            self.applied.notes.append(sentence)
            warnings.warn(sentence, GearshiftWarning, stacklevel=2)

    def tell_changed(self, module: Any, changed: list[str], word: str) -> None:
        """That a module is not as it was when its graph was made, the first time."""
        start = f"{name_of(module)} was changed since it was {word}"
        if not any(note.startswith(start) for note in self.applied.notes):
            self.tell(f"{start} ({listed(changed)}); each state gets a graph of its own, whose first call is slow.")

    def tell_hooks(self, module: Any, hooks: str, word: str) -> None:
        """That hooks or gates inside of a module would be baked into a graph of it."""
        if hooks == "gearshift":
            reason = (
                "as an algorithm that came later decides inside of it; restore the model and apply both in one recipe"
            )
        else:
            reason = f"while hooks of {hooks} are on modules inside of it"
        self.tell(f"{name_of(module)} is not {word} and runs eagerly, {reason}.")

    def count(self, graphs: int, again: bool) -> None:
        """Graphs that a call made; `again`: for a module that had some, as shapes or arguments were new."""
        figures = self.applied.figures
        figures["graphs"] = figures.get("graphs", 0) + graphs
        if again:
            figures["recompiles"] = figures.get("recompiles", 0) + graphs
