"""Context: what an algorithm is given besides the model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearshift.core.change import Change
from gearshift.core.errors import GearshiftWarning
from gearshift.core.recipe import Recipe
from gearshift.core.record import Applied, Record


@dataclass
class Context:
    """The recipe's settings, and the record that changes go into.

    Attributes:
        recipe: the recipe being applied.
        record: the model's record.
        keep_original: whether weights that an algorithm replaces are kept, so that they can be brought back.
        loading: what was found before is in `saved` and `files`, from a saved folder or a plan: measure nothing anew.
        saved: what `applied.saved` held when the folder was written, while a model is rebuilt from one; else empty.
        files: the files kept with it, likewise.
        seen: what algorithms kept of the model as it was before the recipe, by algorithm name.
    """

    recipe: Recipe
    record: Record
    keep_original: bool = False
    loading: bool = False
    saved: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    applied: Applied | None = None

    def change(self, change: Change) -> None:
        """Apply a change to the model and keep it in the record."""
        assert self.applied is not None
        change.apply()
        self.applied.changes.append(change)

    def note(self, sentence: str) -> None:
        """Something the user should read in the status."""
        assert self.applied is not None
        self.applied.notes.append(sentence)

    def warn(self, sentence: str) -> None:
        """Something the user should not miss: said now, and kept in the status."""
        self.note(sentence)
        warnings.warn(sentence, GearshiftWarning, stacklevel=2)

    def measured(self, **figures: Any) -> None:
        """Figures that were measured while applying."""
        assert self.applied is not None
        self.applied.figures.update(figures)

    def save(self, **values: Any) -> None:
        """Plain data that `rebuild` will find in `saved`.

        Raises:
            TypeError: for what the algorithm's `saved_fields` do not declare.
        """
        assert self.applied is not None
        algorithm = self.applied.algorithm
        if undeclared := values.keys() - algorithm.saved_fields.keys():
            raise TypeError(f"{algorithm.name} saves {min(undeclared)!r}, which its saved_fields do not declare")
        self.applied.saved.update(values)

    def keep_file(self, name: str, path: Path) -> None:
        """A file that a saved folder takes along, and that `files` names when the model is rebuilt."""
        assert self.applied is not None
        self.applied.files[name] = path
