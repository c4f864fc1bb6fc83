"""The manifest of a saved folder: what it may hold, and reading it with every file that it lists checked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gearshift.core.boundary import Misfit, path_of, reading
from gearshift.core.errors import BrokenFolder, quoted
from gearshift.core.folders import scratch
from gearshift.core.plain import (
    PART,
    PARTS,
    anything,
    dict_of,
    fields,
    list_of,
    maybe,
    one_of,
    read_json,
    text,
    whole,
)

MANIFEST = "gearshift.json"
KEPT = "kept"
INDEX = "model_index.json"
FORMAT = 1
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
DRIVE = re.compile(r"[A-Za-z]:")


def relative(value: Any, place: str) -> str:
    """The name of a file inside of a folder, its parts between slashes."""
    parts = value.split("/") if isinstance(value, str) else [""]
    if any(p in ("", ".", "..") or "\0" in p or "\\" in p or len(p) > 255 for p in parts) or DRIVE.match(value):
        raise Misfit(f"{place} must name a file inside of the folder, not one outside of the folder: {quoted(value)}")
    return text(most=4096)(value, place)


NAME = text(r"[A-Za-z_]\w*", "a name", most=100)
CLASS = text(r"[A-Za-z_]\w*", "the name of a class", most=200)
GLOBS = list_of(text(), most=10_000)

APPLIED = fields(
    {"name": NAME, "params": dict_of(anything), "saved": dict_of(anything), "figures": dict_of(anything)},
    {"notes": list_of(text(), most=10_000), "files": list_of(relative, most=10_000)},
)
SHAPE = fields(
    {
        "format": whole(FORMAT, FORMAT),
        "model": text(r"\w+:\w+", "the name of a model class", most=200),
        "changed": PARTS,
        "applied": list_of(APPLIED, most=1000),
        "settings": fields(
            {},
            {
                "batch_size": whole(1),
                "device": maybe(text(r"[a-z]+(:\d+)?", "the name of a device", most=30)),
                "seed": whole(-(2**63), 2**64),
                "include": GLOBS,
                "exclude": GLOBS,
            },
        ),
        "dtypes": dict_of(one_of(*FLOATS), key=PART),
        "files": dict_of(text(r"[0-9a-f]{64}", "a SHA-256"), key=relative),
    },
    {
        "tensors": dict_of(
            fields(
                {"dtype": maybe(one_of(*FLOATS)), "not_finite": list_of(text())},
                {"strides": dict_of(list_of(whole(), most=64))},
            ),
            key=PART,
        ),
        "fused": list_of(text(), most=10_000),
        "readers": dict_of(text(r"\w+:\w+", "the name of a class", most=200), key=NAME, most=10),
    },
)


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


def manifest_of(plain: Any) -> dict[str, Any]:
    """A manifest from JSON.

    Raises:
        Misfit: for anything else, and for a format that another release writes.
    """
    version = plain.get("format") if isinstance(plain, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version != FORMAT:
        raise Misfit(f"it has format {quoted(version)}, and this gearshift reads format {FORMAT}")
    manifest = {"tensors": {}, "fused": [], "readers": {}, **SHAPE(plain, "")}
    for applied in manifest["applied"]:
        for name in applied.get("files", []):
            if kept_name(applied["name"], name) not in manifest["files"]:
                raise Misfit(f"{applied['name']} needs the file {quoted(name)}, which is not listed")
    return manifest


def kept_name(algorithm: str, name: str) -> str:
    """Where a saved folder has a file that an algorithm keeps."""
    return f"{KEPT}/{algorithm}/{name}"


def read_index(root: Path) -> dict[str, list[str | None]]:
    """Library and class of each component of a pipeline's folder; none of either where there is no component.

    Raises:
        BrokenFolder: for a model_index.json that names its own class by anything but a string.
    """
    path = root / INDEX
    with reading(path, "the index of a pipeline"):
        index = read_json(path, dict_of(anything))
        CLASS(index.get("_class_name"), "_class_name")
        pairs = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and not k.startswith("_")}
        named = {k: v for k, v in pairs.items() if any(n is None or isinstance(n, str) for n in v)}
        return {k: [maybe(CLASS)(n, k) for n in v] for k, v in named.items()}


@contextmanager
def only_listed(root: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """The folder itself; or, where other files lie in it too, one that holds links to those that the manifest lists.

    Libraries take up files by their names (code, pickles, templates), so they are shown none but the checked ones.
    """
    listed = {MANIFEST, *manifest["files"]}
    if all(p.relative_to(root).as_posix() in listed for p in root.rglob("*") if p.is_symlink() or not p.is_dir()):
        yield root
        return
    view = Path(tempfile.mkdtemp(dir=scratch()))
    for name in listed:
        _link(root / name, view / name)
    try:
        yield view
    except BrokenFolder as error:
        raise BrokenFolder(str(error).replace(str(view), str(root))) from error


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
