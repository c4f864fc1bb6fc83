"""The record: what was applied to a model, with which parameters, what it changed, measured and decided."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.change import Change
from gearshift.core.errors import CannotRestore, GearshiftError
from gearshift.core.model import parts

ATTRIBUTE = "_gearshift_record"


@dataclass
class Applied:
    """One algorithm as it was applied.

    Attributes:
        changes: in the order they were applied.
        notes: sentences for the user.
        figures: what was measured while applying.
        saved: plain data that a saved folder keeps for `rebuild`.
        files: files that a saved folder keeps, by name; after loading they are in that folder.
    """

    algorithm: Algorithm
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def irreversible_reason(self, exact: bool = True) -> str | None:
        """Why it cannot be taken off; None if it can.

        Args:
            exact: nothing but the original will do; else also what a change gives back instead.
        """
        asked = (change for change in self.changes if exact or not change.gives_back)
        return next((reason for change in asked if (reason := change.irreversible_reason())), None)


@dataclass
class Record:
    """Everything gearshift knows about a model it changed.

    Attributes:
        applied: algorithms in the order of application.
        on: how many of them are on; fewer than all inside of `reverted`.
        settings: the settings that the recipes carried.
        readers: the tokenizer and processor that they carried.
        figures: what was measured of the model as a whole.
        last_run: the decisions of the newest finished sampling run, by rule name.
        closed: everything was taken off for good.
    """

    applied: list[Applied] = field(default_factory=list)
    on: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    readers: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    last_run: Any = None
    closed: bool = False

    def revert(self, down_to: int = 0, exact: bool = True) -> None:
        """Take changes off, newest first, until `down_to` algorithms are left on.

        Args:
            exact: nothing but the original will do. False also takes what a change gives back (`Change.gives_back`) and
                is for a transaction that keeps nothing: applied again to that, a change may not be what it was.

        Raises:
            CannotRestore: with every reason, before anything is taken off.
        """
        going = self.applied[down_to : self.on]
        reasons = [reason for applied in going if (reason := applied.irreversible_reason(exact))]
        if reasons:
            raise CannotRestore(" ".join(reasons))
        for applied in reversed(going):
            for change in reversed(applied.changes):
                change.revert()
        self.on = min(self.on, down_to)

    def apply(self, up_to: int) -> None:
        """Put changes on again, oldest first, until `up_to` algorithms are on."""
        for applied in self.applied[self.on : up_to]:
            for change in applied.changes:
                change.apply()
        self.on = max(self.on, min(up_to, len(self.applied)))

    def refuse_disabled(self, done: str) -> None:
        """Raise GearshiftError inside of `disabled`.

        Args:
            done: what cannot be done to the model there.
        """
        if self.on < len(self.applied):
            raise GearshiftError(f"A model cannot be {done} inside of `disabled`; leave the block first.")

    def insert(self, place: int, applied: Applied) -> None:
        """Take in an algorithm that was just applied while those from `place` on were reverted."""
        self.applied.insert(place, applied)
        self.on += 1

    @contextmanager
    def reverted(self, down_to: int = 0, exact: bool = True) -> Iterator[None]:
        """The model without the algorithms from `down_to` on, for the length of a block inside of a transaction.

        After an exception nothing is put on again: the transaction puts the model back as a whole.
        """
        off = len(self.applied) - self.on
        self.revert(down_to, exact)
        yield
        self.apply(len(self.applied) - off)

    def close(self) -> None:
        """Take everything off for good; blocks that are open find nothing to put on again."""
        self.revert()
        self.applied, self.closed = [], True


def record_of(model: Any) -> Record | None:
    """The record of a model, or of one of its parts (pipelines made from each other share their parts)."""
    for holder in (model, *parts(model).values()):
        found = vars(holder).get(ATTRIBUTE)
        if found is not None and not found.closed:
            return found
    return None


def attach(model: Any, record: Record | None) -> None:
    """Put the record on the model and its parts, or take it off."""
    for holder in (model, *parts(model).values()):
        if record is None:
            vars(holder).pop(ATTRIBUTE, None)
        else:
            vars(holder)[ATTRIBUTE] = record
