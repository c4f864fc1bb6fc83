"""Where data from outside comes in and goes out: errors of other libraries become sentences with the file's name."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gearshift.core.errors import BadRecipe, BadValue, BrokenFolder, GearshiftError, MissingExtra, quoted, told

PACKAGE = Path(__file__).parents[1]


class Misfit(ValueError):
    """Data that is not of the shape that was declared for it."""


@contextmanager
def reading(path: Any, what: str, fault: Callable[[str], Exception] = BrokenFolder) -> Iterator[None]:
    """Whatever goes wrong while a file or folder is read becomes one sentence with its name.

    Raises:
        BrokenFolder, or another `fault`: '... cannot be read as (what): (why)'. What names its file already passes,
            and so do missing packages and warnings.
    """
    try:
        yield
    except (BrokenFolder, MissingExtra, NameError, Warning):
        raise
    except Exception as error:
        raise fault(f"{_shown(path)} cannot be read as {what}: {_why(error)}.") from error


@contextmanager
def writing(path: Any) -> Iterator[None]:
    """A disk that is full, read-only or not there while a file is written becomes one sentence with its name.

    Raises:
        BrokenFolder: '... cannot be written: (why)'.
    """
    try:
        yield
    except GearshiftError:
        raise
    except (OSError, ValueError) as error:
        raise BrokenFolder(f"{_shown(path)} cannot be written: {_why(error)}.") from error
    except Exception as error:  # libraries written in Rust tell the system's error in words alone
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        why = _why(OSError(int(code[1]), os.strerror(int(code[1]))))
        raise BrokenFolder(f"{_shown(path)} cannot be written: {why}.") from error


@contextmanager
def calling(model: Any, given: str) -> Iterator[None]:
    """What a model of another library has against a call becomes one sentence; faults of our own code pass as they are.

    Args:
        given: what it is called with, in words.

    Raises:
        BadRecipe: '... cannot be called with (given): (why)'.
    """
    try:
        yield
    except (GearshiftError, Warning, MemoryError):
        raise
    except Exception as error:
        if _ours(error) or "OutOfMemory" in type(error).__name__:
            raise
        raise BadRecipe([f"{type(model).__name__} cannot be called with {given}: {_why(error)}."]) from error


def path_of(given: Any, what: str) -> Path:
    """A path that a caller gave, absolute.

    Raises:
        BadValue: for what is no path; `what` says what it is the path of.
    """
    try:
        name = os.fspath(given)
        os.fsencode(name)
    except (TypeError, ValueError):
        name = ""
    if not isinstance(name, str) or not name or "\0" in name:
        raise BadValue(f"{what} must be a path. Got {quoted(given)} instead.")
    return Path(name).absolute()


def refuse_unwritable(path: Path) -> None:
    """Before the work: whether a file or folder of this name could be made.

    Raises:
        BrokenFolder: if it could not be; nothing is left behind.
    """
    with writing(path):
        there = next(p for p in (path, *path.parents) if p.exists())
        holder = there.parent if there == path and not there.is_dir() else there
        if not holder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{_shown(holder)} is not a folder")
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".gearshift-", dir=holder))
        except OSError as error:
            raise OSError(error.errno, f"nothing can be made in {_shown(holder)} ({error.strerror})") from error


def _shown(path: Any) -> str:
    text = str(path)
    return text if text.isprintable() and len(text) < 1000 else quoted(text)


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{_shown(error.filename)} is not there"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return told(error)


def _ours(error: BaseException) -> bool:
    """Whether an error was raised by gearshift's own code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)
