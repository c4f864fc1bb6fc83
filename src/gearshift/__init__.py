"""gearshift makes diffusion pipelines, language models and Whisper faster, smaller and cheaper.

>>> import gearshift as gs
>>> pipe = gs.optimize(pipe, ["qkv_diffusers", "taylor"])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import gearshift.algorithms  # noqa: F401  first, so that importing it later does not take the verb's name
from gearshift.core.algorithm import Algorithm
from gearshift.core.recipe import Recipe
from gearshift.core.surroundings import surroundings
from gearshift.verbs import algorithms, disabled, follow, optimize, plan, problems, restore, status, warm_up

__version__ = "0.1.0"
__all__ = [
    "Algorithm",
    "Plan",
    "Recipe",
    "algorithms",
    "disabled",
    "follow",
    "load",
    "optimize",
    "plan",
    "problems",
    "read_checkpoint",
    "restore",
    "sampling",
    "save",
    "status",
    "warm_up",
]


def save(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write a model and everything done to it: safetensors and JSON. See `gearshift.persist.store.save`."""
    from gearshift.persist import store

    with surroundings():
        store.save(model, folder)


def load(
    folder: str | os.PathLike[str], device: str | None = None, verify: bool = True, trust_compiled: bool = False
) -> Any:
    """The model of a saved folder, on a device. See `gearshift.persist.reload.load`."""
    from gearshift.persist import reload

    with surroundings():
        return reload.load(folder, device, verify, trust_compiled)


def read_checkpoint(place: str | os.PathLike[str]) -> Any:
    """A language model that another program quantized. See `gearshift.algorithms.common.checkpoint_import`."""
    from gearshift.algorithms.common import checkpoint_import

    with surroundings():
        return checkpoint_import.read_checkpoint(place)


_RUNTIMES = {
    "CausalGenerator": "generator",
    "Translator": "translator",
    "WhisperGenerator": "whisper",
    "CTranslateTranscriber": "whisper_ctranslate",
    "TorchTranscriber": "whisper_torch",
}


def __getattr__(name: str) -> Any:
    if name in _RUNTIMES:
        return getattr(importlib.import_module(f"gearshift.runtimes.{_RUNTIMES[name]}"), name)
    if name == "sampling":
        from gearshift.steps.run import sampling

        return sampling
    if name == "Plan":
        from gearshift.planner.plan import Plan

        return Plan
    raise AttributeError(f"module 'gearshift' has no attribute {name!r}")
