"""Where on the user's disk gearshift keeps what it can make again, and what it needs until the process ends."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """The user's own folder, never a shared one: $XDG_CACHE_HOME/gearshift, or ~/.cache/gearshift."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gearshift"


@functools.cache
def scratch() -> Path:
    """A folder of this process alone, gone at its end."""
    path = Path(tempfile.mkdtemp(prefix="gearshift-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
