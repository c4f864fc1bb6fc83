"""Plain data of unknown origin: JSON files within bounds, and shapes that say what is allowed where.

A shape is a function of a value and its place ('applied[2].params.order'): it gives the value back, or raises `Misfit`
with one sentence that names the place and what is allowed there.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gearshift.core.boundary import Misfit, reading
from gearshift.core.errors import BrokenFolder, quoted

Shape = Callable[[Any, str], Any]

MOST_BYTES = 1 << 26  # of a JSON file
MOST_ITEMS = 1_000_000  # of a list or a dict
MOST_TEXT = 100_000  # characters of a string
WHOLE = 2**53  # up to here every int is a float too


def anything(value: Any, place: str) -> Any:
    return value


def flag(value: Any, place: str) -> bool:
    return value if isinstance(value, bool) else _refuse(value, place, "true or false")


def text(pattern: str = r"[^\0]*", what: str = "a string", most: int = MOST_TEXT) -> Shape:
    """A string that wholly fits a pattern; `what` says so in words."""
    fits = re.compile(pattern, re.DOTALL)

    def check(value: Any, place: str) -> str:
        fine = isinstance(value, str) and len(value) <= most and value.isascii() | _encodes(value)
        return value if fine and fits.fullmatch(value) else _refuse(value, place, what)

    return check


def whole(low: int = 0, high: int = WHOLE) -> Shape:
    """An int from `low` to `high`."""

    def check(value: Any, place: str) -> int:
        fine = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return value if fine else _refuse(value, place, f"an int from {low} to {high}")

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Shape:
    """A finite number from `low` to `high`."""

    def check(value: Any, place: str) -> float:
        fine = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        bounds = "" if math.isinf(high - low) else f" from {low:g} to {high:g}"
        return value if fine and abs(value) < math.inf else _refuse(value, place, f"a number{bounds}")

    return check


def one_of(*values: Any) -> Shape:
    """One of a few strings, numbers or None."""

    def check(value: Any, place: str) -> Any:
        fine = any(value == v and type(value) is type(v) for v in values)
        return value if fine else _refuse(value, place, "one of " + ", ".join(map(repr, values)))

    return check


def maybe(shape: Shape) -> Shape:
    """None, or what the shape allows."""
    return lambda value, place: None if value is None else shape(value, place)


def either(first: type | tuple[type, ...], then: Shape, otherwise: Shape) -> Shape:
    """One shape for values of some types, another one for all others."""
    return lambda value, place: (then if isinstance(value, first) else otherwise)(value, place)


def list_of(shape: Shape, least: int = 0, most: int = MOST_ITEMS) -> Shape:
    def check(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            _refuse(value, place, f"a list of {least} to {most} items")
        return [shape(item, f"{place}[{number}]") for number, item in enumerate(value)]

    return check


def dict_of(shape: Shape, key: Shape | None = None, most: int = MOST_ITEMS) -> Shape:
    """A dict whose keys are strings."""
    name = key or text()

    def check(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            _refuse(value, place, f"a dict of at most {most} items")
        return {name(k, f"a key of {_named(place)}"): shape(v, _inside(place, k)) for k, v in value.items()}

    return check


def fields(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """A dict with exactly these keys; those that are optional may be absent."""
    shapes = {**required, **(optional or {})}

    def check(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            _refuse(value, place, "a dict")
        absent, unknown = [k for k in required if k not in value], [k for k in value if k not in shapes]
        if absent or unknown:
            what = f"lacks {absent[0]!r}" if absent else f"has {quoted(unknown[0])}, which is unknown here"
            raise Misfit(f"{_named(place)} {what}")
        return {k: shapes[k](v, _inside(place, k)) for k, v in value.items()}

    return check


PART = text(r"(?:[A-Za-z_]\w*)?", "the name of a part", most=100)
PARTS = list_of(PART, most=1000)


def saved_layers(kept: Shape) -> dict[str, Shape]:
    """What algorithms keep of the layers that they replaced: parts, and of each part's layers what `kept` allows."""
    return {"parts": PARTS, "paths": dict_of(dict_of(kept), key=PART)}


def read_json(path: Path, shape: Shape = anything, what: str = "JSON", most: int = MOST_BYTES) -> Any:
    """The JSON of a file, if it is of this shape; `what` says of what.

    Raises:
        BrokenFolder: one sentence with the file's name, for anything else.
    """
    with reading(path, what):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BrokenFolder(f"{path} is not a file.")
        if found.st_size > most:
            raise BrokenFolder(f"{path} has {found.st_size} bytes; at most {most} are read.")
        return parse_json(path.read_text(encoding="utf-8"), shape)


def parse_json(given: str, shape: Shape = anything) -> Any:
    """JSON, if it is of this shape; a key that is there twice is refused.

    Raises:
        ValueError, RecursionError: for anything else.
    """
    return shape(json.loads(given, object_pairs_hook=_once), "")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise Misfit(f"the key {quoted(twice)} is there twice")
    return found


def _encodes(value: str) -> bool:
    """Whether a string is one that UTF-8 can write: half a surrogate pair cannot be."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inside(place: str, key: Any) -> str:
    name = key if isinstance(key, str) and key.isidentifier() else f"[{quoted(key)}]"
    return name if not place else f"{place}{name}" if name.startswith("[") else f"{place}.{name}"


def _named(place: str) -> str:
    return place or "it"


def _refuse(value: Any, place: str, allowed: str) -> Any:
    raise Misfit(f"{_named(place)} must be {allowed}, not {quoted(value)}")
