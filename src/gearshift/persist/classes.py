"""The classes that saved folders may name: those of the libraries whose models are loaded, and no others."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gearshift.core.errors import BrokenFolder, told
from gearshift.core.extras import installed, need

LIBRARIES = ("diffusers", "transformers", "gearshift")


def find_class(name: str, folder: Path) -> type:
    """A model class by its full name, from the libraries whose models gearshift loads and from nowhere else.

    Raises:
        BrokenFolder: for any other module, or a class that is not there.
    """
    library, _, cls = name.partition(":")
    module = _library(library)
    if module is None:
        raise BrokenFolder(f"{folder} names a class of {library!r}; only {', '.join(LIBRARIES)} are loaded.")
    try:
        found = getattr(module, cls)
    except (ImportError, AttributeError) as error:
        raise BrokenFolder(f"{folder} needs {library}.{cls}, which is not available here: {told(error)}") from None
    if not isinstance(found, type) or not (hasattr(found, "from_pretrained") and hasattr(found, "save_pretrained")):
        raise BrokenFolder(f"{folder} names {name!r}, which is not a model class.")
    return found


def _library(name: str) -> Any:
    """A library whose models are loaded, or a module of a pipeline of diffusers', which it names so; else None."""
    if name in LIBRARIES:
        return need(name, name, "Loading a saved model")
    pipelines = importlib.import_module("diffusers.pipelines") if installed("diffusers") else None
    return getattr(pipelines, name) if name in dir(pipelines) else None
