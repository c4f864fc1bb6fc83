"""Scratch entries beside a target: locked while their writer lives, swept when it is dead, put in place in one step.

Their names are .NAME.TOKEN.new, and .old for what was moved aside. A lock is on the entry itself, so that the system
releases it with the process that holds it, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where folders cannot be locked
    fcntl = None  # type: ignore[assignment]

EXCHANGE, HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux
BEGUN: set[tuple[int, int]] = set()  # device and number of each scratch entry of this process
LONGEST = 200  # bytes of a name that leave room for what scratch entries add to it


@contextlib.contextmanager
def begun(target: Path, make: Callable[[Path], Any], ending: str = "") -> Iterator[Path]:
    """A new scratch entry of a target, locked, and gone at the end; what dead writers left of the target goes first."""
    with locked_parent(target):
        sweep(target)
        scratch = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.new{ending}")
        make(scratch)
        lock = _lock(scratch)
    this = _numbers(scratch)
    BEGUN.add(this)
    try:
        yield scratch
    finally:
        BEGUN.discard(this)
        removed(scratch)
        _unlock(lock)


def sweep(target: Path) -> None:
    """Remove what dead writers left of a target; if they left no target, what they moved aside comes back."""
    pattern = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{8}\.(new|old)(\.[^.]*)?")
    for entry in sorted(target.parent.iterdir()):
        if not pattern.fullmatch(entry.name) or entry.is_symlink():
            continue
        lock = _lock(entry)
        if lock is None:
            continue  # somebody is at work on it, or this file system cannot say
        if entry.name.endswith(".old") and not os.path.lexists(target):
            entry.replace(target)
        else:
            removed(entry)
        _unlock(lock)


def exchange(scratch: Path, target: Path) -> None:
    """Put a scratch folder in the place of one that is there; call it with the parent locked."""
    if _exchanged(scratch, target):
        return
    aside = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.old")
    target.replace(aside)  # from here to the next line `sweep` would bring it back
    try:
        scratch.replace(target)
    except BaseException:
        aside.replace(target)
        raise
    flushed(target.parent)
    removed(aside)


@contextlib.contextmanager
def locked_parent(target: Path) -> Iterator[None]:
    """One writer at a time begins, ends or sweeps in a folder; each is there for a moment only.

    A scratch folder is its writer's alone, who may save another model into it: there is nobody to wait for.
    """
    lock = None if _numbers(target.parent) in BEGUN else _lock(target.parent, wait=True)
    try:
        yield
    finally:
        _unlock(lock)


def settled(folder: Path) -> None:
    """Everything in a folder is readable as the folder is, and on the disk."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            Path(place, name).chmod(mode)
            flushed(Path(place, name))
        flushed(Path(place))


def flushed(entry: Path) -> None:
    """A file, or a folder's list of names, is on the disk."""
    if entry.is_dir() and fcntl is None:
        return  # Windows flushes no folders
    descriptor = os.open(entry, os.O_RDONLY if fcntl else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some file systems flush no folders
            raise
    finally:
        os.close(descriptor)


def removed(entry: Path) -> None:
    """A file or folder is gone, as far as that can be."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


def _numbers(entry: Path) -> tuple[int, int]:
    """What names an entry, wherever it is moved; of no entry where there is none."""
    try:
        found = entry.stat()
    except OSError:
        return -1, -1
    return found.st_dev, found.st_ino


def _prefix(target: Path) -> str:
    name = target.name
    return f".{name if len(os.fsencode(name)) <= LONGEST else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}."


def _exchanged(one: Path, other: Path) -> bool:
    """Let two entries change places in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0)


def _lock(entry: Path, wait: bool = False) -> int | None:
    """A lock that lasts as long as this process at most; None if another one holds it or there are no locks here."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(entry, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return descriptor
    except OSError:
        _unlock(descriptor)
        return None


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
