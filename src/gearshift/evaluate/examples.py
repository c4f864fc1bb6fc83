"""What a model is evaluated on: examples of calls, as Python objects, JSON lines or a text file of prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from gearshift.core.boundary import reading
from gearshift.core.errors import BadRecipe, BadValue, quoted
from gearshift.core.examples import examples
from gearshift.core.facts import Kind
from gearshift.core.plain import MOST_BYTES, parse_json

FILES = (".txt", ".jsonl", ".json")
KEY = {Kind.DIFFUSION: "prompt", Kind.LANGUAGE: "text", Kind.SPEECH: "audio"}
SHOWN = 60  # characters of a name
ITEMS = ("prompt", "class_labels")  # arguments of pipelines that make several items when they are lists


@dataclass(frozen=True)
class Example:
    """One call of a model.

    Attributes:
        call: arguments by name.
        names: of its items, for people: several for a list of prompts.
        seed: of the first item's noise; the others' count up.
    """

    call: Mapping[str, Any]
    names: tuple[str, ...]
    seed: int

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + len(self.names))


def read_examples(data: Any, kind: Kind, seed: int = 0) -> list[Example]:
    """Examples from whatever somebody gives.

    Args:
        data: a list of strings or of dicts of arguments, or the path of a file of them: JSON lines, a JSON list, or
            text with an example a line. A dict may have a 'seed', and a 'truth' that is for metrics alone.
        kind: of the model: strings are prompts, texts or sound files.
        seed: of the first example.

    Raises:
        BadValue: for no examples, or what is none.
        BrokenFolder: for a file that cannot be read.
    """
    if isinstance(data, os.PathLike) or (isinstance(data, str) and data.endswith(FILES)):
        data = read_file(Path(data))
    if data is None:
        raise BadValue("`data` is missing: give the prompts, texts or sound that the model is to be measured on.")
    try:
        given = list(examples(data) or [])
    except BadRecipe as error:
        raise BadValue(str(error)) from None
    if not given:
        raise BadValue("`data` has no example; give at least one.")
    calls = [_call(item, kind, place) for place, item in enumerate(given)]
    names = [_names(call, kind, place) for place, call in enumerate(calls)]
    starts = accumulate((len(n) for n in names), initial=seed)
    return [
        Example({k: v for k, v in call.items() if k != "seed"}, n, call.get("seed", start))
        for call, n, start in zip(calls, names, starts, strict=False)
    ]


def in_batches(found: list[Example], size: int) -> list[Example]:
    """Examples of pipelines whose calls differ in nothing but one prompt each, several of them in a call."""
    groups: dict[str, list[Example]] = {}
    for example in found:
        rest = {k: v for k, v in example.call.items() if k != "prompt"}
        alone = isinstance(example.call.get("prompt"), str)
        groups.setdefault(repr(sorted(rest.items())) if alone else str(id(example)), []).append(example)
    batches = [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
    return [
        b[0]
        if len(b) == 1
        else replace(
            b[0], call={**b[0].call, "prompt": [e.call["prompt"] for e in b]}, names=sum((e.names for e in b), ())
        )
        for b in batches
    ]


def _call(item: Any, kind: Kind, place: int) -> dict[str, Any]:
    if isinstance(item, str) and not item.strip():
        raise BadValue(f"Example {place} of `data` is empty.")
    call = dict(item) if isinstance(item, Mapping) else {KEY.get(kind, "input"): item}
    if not call or not all(isinstance(k, str) for k in call):
        raise BadValue(f"Example {place} of `data` is a dict of arguments by their names. Got {quoted(item)} instead.")
    if kind is Kind.DIFFUSION and not isinstance(item, (str, Mapping)):
        raise BadValue(f"Example {place} of `data` is a prompt or a dict of arguments. Got {quoted(item)} instead.")
    seed = call.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**62:
        raise BadValue(f"The seed of example {place} must be an int of 0 or more. Got {quoted(seed)} instead.")
    return call


def _names(call: Mapping[str, Any], kind: Kind, place: int) -> tuple[str, ...]:
    many = next((call[k] for k in ITEMS if isinstance(call.get(k), (list, tuple))), None)
    if kind is Kind.DIFFUSION and many is not None:
        words = [str(m) for m in many]
    else:
        first = next(
            (call[k] for k in (*KEY.values(), *ITEMS) if isinstance(call.get(k), (str, int, os.PathLike))), None
        )
        words = [f"example {place}" if first is None else str(first)]
    words = [w for w in words for _ in range(_images_each(call))] if kind is Kind.DIFFUSION else words
    return tuple(" ".join(w.split())[:SHOWN] for w in words)


def _images_each(call: Mapping[str, Any]) -> int:
    count = call.get("num_images_per_prompt") or 1
    return count if isinstance(count, int) and count > 0 else 1


def read_file(path: Path) -> list[Any]:
    """Examples of a file: a JSON list, JSON lines, or text with an example a line; images by their paths.

    Raises:
        BrokenFolder: in a sentence, if it cannot be read as such.
    """
    with reading(path, "examples"):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = parse_json(text)
        elif path.suffix == ".jsonl":
            found = [parse_json(line) for line in text.splitlines() if line.strip()]
        else:
            found = [line.strip() for line in text.splitlines() if line.strip()]
        if not isinstance(found, list):
            raise ValueError("it is no list of examples")
        return [_with_image(item) for item in found]


def _with_image(item: Any) -> Any:
    """An example of a file whose image is named by its path, with the image."""
    if not isinstance(item, dict) or not isinstance(item.get("image"), str):
        return item
    from PIL import Image

    return {**item, "image": Image.open(item["image"]).convert("RGB")}


def identity_of(found: list[Example]) -> str:
    """What tells one list of examples from another: their names and plain arguments, as text."""
    return json.dumps([[*e.names, e.seed, {k: repr(v)[:200] for k, v in e.call.items()}] for e in found])
