"""Saved folders that somebody changed, and made look unchanged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path


def rehashed(source: Path, target: Path, change: Callable[[Path], None], every_file: bool = True) -> Path:
    """A copy of a saved folder after a change, its manifest with the hashes of what is there now.

    Args:
        every_file: the manifest lists what the change added, too.
    """
    shutil.copytree(source, target)
    change(target)
    path = target / "gearshift.json"
    manifest = json.loads(path.read_text())
    there = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file() and p != path}
    kept = {name: p for name, p in there.items() if every_file or name in manifest["files"]}
    manifest["files"] = {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in kept.items()}
    path.write_text(json.dumps(manifest))
    return target
