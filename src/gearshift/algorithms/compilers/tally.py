"""What compilers tell the user after they were applied: how many graphs their calls made, and what went otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from gearshift.core.context import Context
from gearshift.core.record import Applied


@dataclass(eq=False)
class Tally:
    """The status of one algorithm, which later calls add to.

    Attributes:
        applied: its figures 'graphs' and 'recompiles' count up, and its notes take sentences.
    """

    applied: Applied

    @staticmethod
    def of(context: Context) -> Tally:
        assert context.applied is not None
        return Tally(context.applied)

    def tell(self, sentence: str) -> None:
        """A note, once."""
        if sentence not in self.applied.notes:
            self.applied.notes.append(sentence)

    def count(self, graphs: int, again: bool) -> None:
        """Graphs that a call made; `again`: for a module that had some, as shapes or arguments were new."""
        figures = self.applied.figures
        figures["graphs"] = figures.get("graphs", 0) + graphs
        if again:
            figures["recompiles"] = figures.get("recompiles", 0) + graphs
