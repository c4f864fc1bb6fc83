"""Mutations of plain data, of text and of bytes, all drawn from one random.Random."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from random import Random
from typing import Any

ODD = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), -0.5),
    *("", "x", "../x", "/etc/passwd", "\0", "..", "é\u202e", "1" * 40, "float32", "load", "a\\b", "4"),
    *([], {}, [[]], {"a": 1}, [1, 2], ["x"], {"": {}}, [None]),
    *(
        "taylor",
        "transformers:AutoModel",
        "diffusers:DiTPipeline",
        "gearshift:Recipe",
        "os:system",
        "unet",
        "transformer",
    ),
]
BESIDE = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "evil.py", "notes.txt", "adapter_config.json")
SIGNS = [
    *"()[]{},:=+-&*!|>'\"%@`#?\\\n\t ~.",
    *("\0", "\x85", "é", "nan", ".inf", "1e999", "0x10", "1:2:3", "2001-01-01", "9" * 5000, "[" * 300, "{a: " * 100),
    *("!!python/name:os.system", "!!binary aGk=", "&a [*a]", "<<: *a", "--- ", "... ", "null", "? a", "2002-02-30"),
    *("taylor", "half", "algorithms", "seed", "batch_size", "device", "data", "!!int a", "!!bool z", "!!set {a}"),
]


def mutated(data: Any, draw: Random) -> Any:
    """Plain data with one to three changes: other values, other keys, parts gone, doubled or swapped."""
    data = copy.deepcopy(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = [p for p in _places(data) if p]
        if places:
            _change(data, draw.choice(places), places, draw)
    return data


def written(data: Any, draw: Random) -> bytes:
    """As JSON, now and then broken, nested without end or in another encoding."""
    try:
        text = json.dumps(data, indent=1)
    except (ValueError, TypeError):
        text = "{}"
    return broken(text.encode(), draw) if draw.random() < 0.15 else text.encode()


def broken(content: bytes, draw: Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    ways = [
        content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :],
        content[:place],
        content + content[place:],
        b"[" * 100_000 + content,
        b'{"a":' * 50_000,
        content.replace(b"1", b"1" * 6000, 1),
        b"\xff\xfe" + content,
        b"",
    ]
    return draw.choice(ways)


def scribbled(text: str, draw: Random) -> str:
    """Text with a few signs put in or in the place of others."""
    for _ in range(draw.choice((1, 1, 2, 3, 5))):
        start = draw.randrange(len(text) + 1)
        sign = draw.choice(SIGNS) if draw.random() < 0.8 else chr(draw.randrange(1, 0x3000))
        text = text[:start] + sign + text[start + draw.choice((0, 0, 1, 2, 6)) :]
    return text


def spoilt(folder: Path, draw: Random) -> None:
    """A folder with one file gone, emptied, cut, altered, made a folder or a link, or with another one beside it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file, way = draw.choice(files), draw.randrange(7)
    if way == 0:
        file.unlink()
    elif way == 1:
        file.write_bytes(broken(file.read_bytes(), draw))
    elif way == 2:
        file.unlink()
        file.mkdir()
    elif way == 3:
        moved = folder.parent / "moved"
        moved.unlink(missing_ok=True)
        file.rename(moved)
        file.symlink_to(moved)
    elif way == 4:
        file.with_name(draw.choice(("pytorch_model.bin", "evil.py", "notes.txt", "adapter_config.json"))).write_bytes(
            b"x"
        )
    elif file.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):  # it was spoilt before
            file.write_bytes(written(mutated(json.loads(file.read_bytes()), draw), draw))
    elif file.suffix == ".safetensors":
        with contextlib.suppress(ValueError, RecursionError):
            file.write_bytes(_other_header(file.read_bytes(), draw))


def _other_header(content: bytes, draw: Random) -> bytes:
    """Safetensors with a mutated header."""
    size = int.from_bytes(content[:8], "little")
    header = written(mutated(json.loads(content[8 : 8 + size]), draw), draw)
    told = draw.choice((len(header), len(header), len(header), 2**60, 99_000_000, 0))
    return told.to_bytes(8, "little") + header + content[8 + size :]


def _places(data: Any, place: tuple[Any, ...] = ()) -> Any:
    yield place
    if isinstance(data, dict):
        for key in data:
            yield from _places(data[key], (*place, key))
    elif isinstance(data, list):
        for number in range(min(len(data), 8)):
            yield from _places(data[number], (*place, number))


def _at(data: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        data = data[key]
    return data


def _change(data: Any, place: tuple[Any, ...], places: list[tuple[Any, ...]], draw: Random) -> None:
    holder, key, way = _at(data, place[:-1]), place[-1], draw.randrange(6)
    value = holder[key]
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[str(draw.choice(ODD))] = value
    elif way == 1:
        holder.insert(0, copy.deepcopy(draw.choice(ODD)))
    elif way == 2 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = value * draw.choice((-1, 0, 2, 10**6, 1e300, 0.5))
    elif way == 3 and isinstance(value, str) and value:
        holder[key] = scribbled(value, draw)
    elif way == 4:
        holder[key] = copy.deepcopy(_at(data, draw.choice(places)))
    else:
        holder[key] = copy.deepcopy(draw.choice(ODD))
