"""What a saved folder was made with: versions of the libraries, and the kind of the machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("gearshift", "torch", "diffusers", "transformers")


def made_with() -> dict[str, str]:
    """Versions here by library, and the machine's kind; none of what names one machine."""
    import torch

    kind = f"{platform.system()} {platform.machine()}"
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        kind += f", {torch.cuda.get_device_name()}"
    return {**_versions(), "python": platform.python_version(), "machine": kind}


def other_versions(made: dict[str, str]) -> str:
    """One sentence if a folder was made with other releases than those that are here; else nothing."""
    here = _versions()
    other = [n for n in LIBRARIES if n in made and _release(made[n]) != _release(here.get(n, "none"))]
    if not other:
        return ""
    then, now = (", ".join(f"{name} {of.get(name, 'none')}" for name in other) for of in (made, here))
    return f" It was saved with {then}; here: {now}."


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _release(name: str) -> list[str]:
    """Major and minor number, which decide what a library's files look like."""
    return name.split(".")[:2]
