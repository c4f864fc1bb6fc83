"""Writing files and folders so that a reader, or a kill at any moment, finds the old one whole or the new one whole.

What is written lies in a scratch entry beside its target, is flushed to the disk, and is then put in the target's place
in one step. What writers left that died meanwhile goes with the next write of the same target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gearshift.core.boundary import path_of, writing
from gearshift.core.scratch import begun, exchange, flushed, locked_parent, settled, sweep

Owned = Callable[[Path], Iterable[str] | None] | None


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file of which nobody ever sees a part; text is written in UTF-8, folders are made as needed.

    Raises:
        BrokenFolder: in one sentence; what was there before still is.
    """
    with replacing_file(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch file, with the target's ending, that takes the target's place when the block ends without an error.

    Raises:
        BrokenFolder: in one sentence; what was there before still is.
    """
    target = place_of(path)
    with _parents(target), writing(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not target.is_file():
            yield target  # a device or a pipe takes what is written as it comes
            return
        with begun(target, lambda entry: entry.touch(exist_ok=False), target.suffix) as scratch:
            yield scratch
            if target.exists():
                shutil.copymode(target, scratch)
            flushed(scratch)
            scratch.replace(target)
            flushed(target.parent)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], owned: Owned) -> Iterator[Path]:
    """A scratch folder that takes the target's place when the block ends without an error.

    Args:
        owned: gives the names of the files in a folder that may go with it, relative to it; None refuses to replace it.
            All others are carried over into the new folder. None instead of a function: everything goes.

    Raises:
        BrokenFolder: in one sentence; what was there before still is.
    """
    target = place_of(path)
    with _parents(target), writing(target), begun(target, Path.mkdir) as scratch:
        yield scratch
        settled(scratch)
        _put_in_place(scratch, target, owned)


def place_of(path: Any, what: str = "A file to write") -> Path:
    """Where something really lies: an absolute path, a link followed.

    Raises:
        BadValue: for what is no path; `what` says what it is the path of.
    """
    place = path_of(path, what)
    return place.resolve() if ".." in place.parts or os.path.islink(place) else place


def put_back(target: Path) -> None:
    """If a writer died between moving the old folder aside and the new one in, bring the old one back."""
    if not os.path.lexists(target) and target.parent.is_dir():
        with locked_parent(target):
            sweep(target)


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders above a target; those that were missing go again if the block fails."""
    made = [parent for parent in target.parents if not os.path.lexists(parent)]
    try:
        with writing(target):
            with contextlib.suppress(FileNotFoundError):
                target.lstat()  # names that cannot be are told before any work
            target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _put_in_place(scratch: Path, target: Path, owned: Owned) -> None:
    here = _working_folder()
    with locked_parent(target):
        if os.path.lexists(target):
            if owned is not None:
                names = owned(target)
                if names is None:
                    raise FileExistsError(errno.EEXIST, "another program wrote it meanwhile")
                _carry_over(target, scratch, set(names))
            shutil.copymode(target, scratch)
            exchange(scratch, target)
        else:
            scratch.replace(target)
        flushed(target.parent)
    if here is not None and here.is_relative_to(target):
        with contextlib.suppress(OSError):
            os.chdir(here)  # or this process would stay in the folder that goes


def _carry_over(old: Path, new: Path, owned: set[str]) -> None:
    """Give the new folder what is somebody else's in the old one: the same files, not copies, where that can be."""
    for folder, names, files in os.walk(old):
        links = [n for n in names if Path(folder, n).is_symlink()]
        for name in (*files, *links):
            source = Path(folder, name)
            relative = source.relative_to(old)
            if relative.as_posix() in owned:
                continue
            place = new / relative
            if os.path.lexists(place):
                raise FileExistsError(errno.EEXIST, f"{relative} in it is not gearshift's and would be overwritten")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, place, follow_symlinks=False)
            except OSError:
                shutil.copy2(source, place, follow_symlinks=False)
        if not names and not files:
            (new / Path(folder).relative_to(old)).mkdir(parents=True, exist_ok=True)


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None
