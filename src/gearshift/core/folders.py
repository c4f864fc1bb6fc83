"""Where on the user's disk gearshift keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's own folder, never a shared one: $XDG_CACHE_HOME/gearshift, or ~/.cache/gearshift."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gearshift"
