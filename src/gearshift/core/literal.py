"""Recipes as short strings: 'name, name(parameter=value), setting=value', read and written.

A value is a number, True, False, None, a list, a dict, or text, which stands in quotes where it has signs of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from gearshift.core.errors import BadRecipe, quoted

LONGEST = 100_000  # characters of a recipe
DEEPEST = 20  # lists and dicts inside of each other
NAME = re.compile(r"[A-Za-z_]\w*")
BARE = re.compile(r"[^,+()\[\]{}'\"=:\s][^,()\[\]{}'\"=:]*")
QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
WHOLE = re.compile(r"[-+]?\d{1,4000}")
FLOAT = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\.?(?:inf|nan|Inf|NaN))")
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
CONSTANTS = {
    **dict.fromkeys(("None", "null", "Null", "NULL", "~"), None),
    **dict.fromkeys(("True", "true", "TRUE", "yes", "Yes", "on", "On"), True),
    **dict.fromkeys(("False", "false", "FALSE", "no", "No", "off", "Off"), False),
}


def read_recipe(text: str) -> list[dict[str, Any]]:
    """'a, b(x=1), seed=3' as [{'a': {}}, {'b': {'x': 1}}, {'seed': 3}].

    Raises:
        BadRecipe: one sentence with the place from which on it cannot be read.
    """
    if len(text) > LONGEST:
        raise BadRecipe([f"A recipe has at most {LONGEST} characters. Got {len(text)} instead."])
    reader, found = _Reader(text), []
    while not reader.ended():
        name = reader.name("an algorithm's name")
        if reader.sees("="):
            found.append({name: reader.value()})
        else:
            found.append({name: dict(reader.several(")", reader.pair)) if reader.sees("(") else {}})
        if not (reader.ended() or reader.sees(",") or reader.sees("+")):
            reader.fail("a comma between algorithms")
    return found


def written(value: Any) -> str:
    """A value of plain data as `read_recipe` reads it back."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and isinstance(_scalar(value), str) else json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    return repr(value)


def _scalar(text: str) -> Any:
    if text in CONSTANTS:
        return CONSTANTS[text]
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if FLOAT.fullmatch(text) else text


class _Reader:
    """A text, and how far it was read."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.skip()

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def ended(self) -> bool:
        return self.at >= len(self.text)

    def sees(self, sign: str) -> bool:
        """Whether a sign comes next; it is passed over."""
        if not self.text.startswith(sign, self.at):
            return False
        self.at += len(sign)
        self.skip()
        return True

    def take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
            self.skip()
        return found[0] if found else None

    def fail(self, wanted: str) -> Any:
        raise BadRecipe(
            [
                f"{quoted(self.text)} cannot be read as a recipe: {wanted} is missing before "
                f"{quoted(self.text[self.at :]) if not self.ended() else 'its end'}; "
                "write 'name, name(parameter=value)'."
            ]
        )

    def name(self, what: str) -> str:
        return self.take(NAME) or self.fail(what)

    def pair(self) -> tuple[str, Any]:
        """name=value"""
        name = self.name("name=value")
        return name, self.value() if self.sees("=") else self.fail(f"the = after {quoted(name)}")

    def item(self) -> tuple[Any, Any]:
        """key: value"""
        key = self.value()
        if isinstance(key, (list, dict)):
            self.fail("a key")
        return key, self.value() if self.sees(":") else self.fail("a colon")

    def several(self, end: str, one: Callable[[], Any]) -> list[Any]:
        """Items with commas between them, up to a closing sign."""
        found: list[Any] = []
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail("an end of so many brackets")
        while not self.sees(end):
            found.append(one())
            if not self.sees(","):
                if not self.sees(end):
                    self.fail(f"a {end!r}")
                break
        self.depth -= 1
        return found

    def value(self) -> Any:
        if self.sees("["):
            return self.several("]", self.value)
        if self.sees("{"):
            return dict(self.several("}", self.item))
        text = self.take(QUOTED)
        if text is not None:
            return _unquoted(text)
        bare = self.take(BARE)
        return _scalar(bare.strip()) if bare else self.fail("a value")


def _unquoted(text: str) -> str:
    if text[0] == '"':
        try:
            return json.loads(text, strict=False)
        except ValueError:
            pass  # another escape than JSON's: the sign itself is meant
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
