"""What reads and writes a model's text and sound: its tokenizer and processor, kept in its folder beside it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from gearshift.core.errors import BrokenFolder, GearshiftWarning
from gearshift.core.model import parts
from gearshift.core.recipe import READERS
from gearshift.persist.classes import LIBRARIES, find_class
from gearshift.persist.libraries import library_of


def write_readers(model: Any, given: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write a model's tokenizer and processor into its folder; gives the classes that they are of.

    Args:
        model: a torch module; pipelines and runtimes write theirs as their own components.
        given: those of recipes; else the model's attributes of these names are.
    """
    written: dict[str, str] = {}
    if "" not in parts(model):
        return written
    for name in READERS:
        reader: Any = {**readers_of(model), **given}.get(name)
        if not hasattr(reader, "save_pretrained"):
            continue
        cls = f"{type(reader).__module__.partition('.')[0]}:{type(reader).__name__}"
        try:
            find_class(cls, folder)
        except BrokenFolder:
            told = f"The {name} is not saved: {cls} is no class of {', '.join(LIBRARIES)}, and no others are loaded."
            warnings.warn(told, GearshiftWarning, stacklevel=2)
            continue
        reader.save_pretrained(str(folder))
        written[name] = cls
    return written


def readers_of(model: Any) -> dict[str, Any]:
    """The tokenizer and processor that a model holds as attributes."""
    return {name: vars(model)[name] for name in READERS if vars(model).get(name) is not None}


def read_readers(classes: dict[str, str], folder: Path) -> dict[str, Any]:
    """The tokenizer and processor of a folder, by name."""
    found = {name: find_class(cls, folder) for name, cls in classes.items()}
    return {name: library_of(cls).read_other(cls, folder) for name, cls in found.items()}
