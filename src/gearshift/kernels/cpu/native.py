"""Our own C++ kernels: compiled for this machine's CPU at first use, and kept in the user's cache folder.

Plain C functions called through ctypes: they include no header of torch, so that compiling takes seconds, and a new
torch needs no new build. There is no lock file that a killed build could leave behind: a build happens in a folder of
its own and is moved into place whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gearshift.core.folders import cache_folder

SOURCES = Path(__file__).parent / "csrc"
ALWAYS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-w")
# the first that the compiler takes; all but the last are for the CPU at hand, and may use what others do not have
FLAGS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
SECONDS = 120


class Native(NamedTuple):
    """A compiled file of kernels, or in one sentence why there is none."""

    library: ctypes.CDLL | None
    problem: str | None = None


@functools.cache
def native(stem: str) -> Native:
    """Compile `csrc/<stem>.cpp`, or take what an earlier process compiled of it; never raises."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return Native(None, "There is no C++ compiler on this machine (install g++, or set CXX).")
    problem = ""
    for flags in FLAGS:
        try:
            return Native(_load(compiler, SOURCES / f"{stem}.cpp", flags))
        except subprocess.CalledProcessError as error:
            problem = error.stderr.strip().partition("\n")[0]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
    return Native(None, f"{compiler} could not compile {stem}.cpp: {problem}")


def declare(library: ctypes.CDLL, signatures: Mapping[str, list[Any]]) -> None:
    """Tell ctypes the arguments of functions that return nothing."""
    for name, types in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None


def _load(compiler: str, source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    cache = _writable_cache()
    kept = None if cache is None else cache / f"{source.stem}-{_key(compiler, source, flags)}.so"
    if kept is not None and kept.is_file():
        with contextlib.suppress(OSError):  # damaged: make it again
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as folder:
        made = Path(folder) / source.name
        _run(compiler, *ALWAYS, *flags, str(source), "-o", str(made))
        if kept is not None:
            made = made.replace(kept)
        return ctypes.CDLL(str(made))


def _key(compiler: str, source: Path, flags: tuple[str, ...]) -> str:
    """Of the source, the compiler and the CPU: the macros that the compiler defines tell the last two."""
    macros = _run(compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull)
    headers = (header.read_text() for header in sorted(source.parent.glob("*.h")))
    parts = (source.read_text(), *headers, *ALWAYS, *flags, macros)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout


def _writable_cache() -> Path | None:
    """The user's own folder, as what lies in it is run. None if it cannot be written to."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None
