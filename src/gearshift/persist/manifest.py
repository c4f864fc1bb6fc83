"""The files of a saved folder: reading its manifest, with every file that it lists checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gearshift.core.boundary import path_of, reading
from gearshift.core.errors import BrokenFolder, quoted
from gearshift.core.folders import scratch
from gearshift.core.plain import read_json
from gearshift.persist.formats import manifest_of

MANIFEST = "gearshift.json"


def read_manifest(folder: str | os.PathLike[str], verify: bool = True) -> dict[str, Any]:
    """The manifest of a saved folder, after checking that every file is there and unaltered.

    Raises:
        BrokenFolder: naming the folder or the file and what is wrong with it.
    """
    root = path_of(folder, "A saved folder")
    path = root / MANIFEST
    with reading(root, "a saved folder"):
        if not path.is_file():
            raise BrokenFolder(f"{root} is not a folder saved by gearshift: it has no {MANIFEST}.")
        with reading(path, "a manifest"):
            manifest = manifest_of(read_json(path, what="a manifest"))
        for name, digest in manifest["files"].items():
            _check_file(root, name, digest if verify else None)
    return manifest


@contextmanager
def only_listed(root: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """The folder itself; or, where other files lie in it too, one that holds links to those that the manifest lists.

    Libraries take up files by their names (code, pickles, templates), so they are shown none but the checked ones.
    """
    listed = {MANIFEST, *manifest["files"]}
    there = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_symlink() or not p.is_dir())
    others = [name for name in there if name not in listed]
    if not others:
        yield root
        return
    view = Path(tempfile.mkdtemp(dir=scratch()))
    for name in listed:
        _link(root / name, view / name)
    try:
        yield view
    except BrokenFolder as error:
        more = f" and {len(others) - 1} others" if len(others) > 1 else ""
        unread = f"Not listed in {MANIFEST} and so not read: {quoted(others[0])}{more}."
        raise BrokenFolder(f"{str(error).replace(str(view), str(root))} {unread}") from error


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file)
    except OSError:  # a system where links need rights
        shutil.copyfile(file, place)


def _check_file(root: Path, name: str, digest: str | None) -> None:
    file = root / name
    for place in (file, *file.parents):
        if place == root:
            break
        if place.is_symlink():
            raise BrokenFolder(f"{place} is a link; a saved folder holds its files itself.")
    if not file.is_file():
        raise BrokenFolder(f"{file} is missing.")
    if digest is not None and sha256(file) != digest:
        raise BrokenFolder(f"{file} is damaged or was altered: its SHA-256 is not the one in {MANIFEST}.")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
