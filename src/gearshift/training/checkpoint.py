"""Where a training run left off: safetensors and JSON in the user's cache, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gearshift.core.errors import BrokenFolder
from gearshift.core.files import replacing_folder
from gearshift.core.folders import cache_folder
from gearshift.core.tensors import read_tensors

FILE = "state.safetensors"


def home() -> Path:
    """The folder of unfinished runs."""
    return cache_folder() / "training"


def digest(parts: Iterable[Any]) -> str:
    """What names a run: equal settings, start and data give equal names."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            found.update(part.detach().float().cpu().contiguous().numpy().tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()[:24]


@dataclass
class Checkpoint:
    """The place of one run.

    Attributes:
        folder: named by the run's digest.
    """

    folder: Path

    def write(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Put a state there, in the place of the one before."""
        from safetensors.torch import save_file

        whole = {name: t.detach().cpu().clone() for name, t in tensors.items()}  # none shares memory
        with replacing_folder(self.folder, lambda old: [FILE]) as scratch:
            save_file(whole, str(scratch / FILE), metadata={"facts": json.dumps(facts)})

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The state that is there; None if there is none, or none that can be read."""
        from safetensors import safe_open

        file = self.folder / FILE
        if not file.is_file():
            return None
        try:
            tensors = read_tensors(file)
            with safe_open(str(file), framework="pt") as opened:
                return tensors, json.loads(opened.metadata()["facts"])
        except (BrokenFolder, KeyError, TypeError, ValueError):
            return None

    def clear(self) -> None:
        """The run is finished: nothing is to be gone on with."""
        shutil.rmtree(self.folder, ignore_errors=True)
