"""One adapter for each library whose models are kept: how they are written, made again and read."""

from __future__ import annotations

from typing import Any

from gearshift.persist.libraries.base import Library
from gearshift.persist.libraries.diffusers import Diffusers
from gearshift.persist.libraries.transformers import Transformers


def library_of(cls: type[Any]) -> Library:
    """The adapter of a class: models and schedulers of diffusers read their configuration by themselves."""
    return Diffusers() if hasattr(cls, "load_config") else Transformers()
