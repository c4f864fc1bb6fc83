"""The formats of a manifest: what each may hold, and how an older one becomes the newest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gearshift.core.boundary import Misfit
from gearshift.core.errors import quoted
from gearshift.core.plain import PART, PARTS, anything, dict_of, fields, flag, list_of, maybe, one_of, text, whole

FORMAT = 2  # what is written
KEPT = "kept"
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
COMMON = {
    "format": whole(1, FORMAT),
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
            "exportable": flag,
        },
    ),
    "files": dict_of(text(r"[0-9a-f]{64}", "a SHA-256"), key=relative),
}
DTYPES = {"dtypes": dict_of(one_of(*FLOATS), key=PART)}
SINCE_2 = {
    "tensors": dict_of(
        fields(
            {"dtype": maybe(one_of(*FLOATS)), "not_finite": list_of(text())},
            {"strides": dict_of(list_of(whole(), most=64))},
        ),
        key=PART,
    ),
    "fused": list_of(text(), most=10_000),
    "readers": dict_of(text(r"\w+:\w+", "the name of a class", most=200), key=NAME, most=10),
}
MADE_WITH = {"made_with": dict_of(text(most=200), key=NAME, most=20)}
SHAPES = {1: fields({**COMMON, **DTYPES}, SINCE_2), 2: fields({**COMMON, **SINCE_2}, {**DTYPES, **MADE_WITH})}


def _to_2(manifest: dict[str, Any]) -> dict[str, Any]:
    """Some folders of format 1 say nothing of single tensors (None); `dtypes` then has the type of each part."""
    return {"tensors": None, "fused": [], "readers": {}, **manifest}


MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_to_2,)  # from format 1, from format 2, ...


def manifest_of(plain: Any) -> dict[str, Any]:
    """A manifest of the newest format, from JSON of any.

    Raises:
        Misfit: for anything else, and for a format that a later release writes.
    """
    version = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        version = FORMAT  # its shape says what is wrong
    if version not in SHAPES:
        raise Misfit(f"it has format {quoted(version)}, and this gearshift reads formats 1 to {FORMAT}")
    manifest = SHAPES[version](plain, "")
    for migrate in MIGRATIONS[version - 1 :]:
        manifest = migrate(manifest)
    manifest = {"dtypes": {}, "made_with": {}, **manifest, "format": FORMAT}
    for applied in manifest["applied"]:
        for name in applied.get("files", []):
            if kept_name(applied["name"], name) not in manifest["files"]:
                raise Misfit(f"{applied['name']} needs the file {quoted(name)}, which is not listed")
    return manifest


def kept_name(algorithm: str, name: str) -> str:
    """Where a saved folder has a file that an algorithm keeps."""
    return f"{KEPT}/{algorithm}/{name}"
