"""Errors are sentences: what was wrong with the value, what is allowed, what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

QUOTED = 60  # characters of a value that a sentence repeats
TOLD = 300  # characters of another library's message
LISTED = 20  # faults of one recipe that are listed
LONG = 100  # a name longer than this is near to none that there is


class GearshiftError(Exception):
    """Base of every error that gearshift raises on purpose."""


class UnknownName(GearshiftError, KeyError):
    """A name that nothing answers to; the message lists the nearest ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.name, self.known = name, sorted(known)
        super().__init__(f"There is no {kind} {quoted(name)}{suggestion(name, self.known)}")

    def __str__(self) -> str:
        return str(self.args[0])


class BadValue(GearshiftError, ValueError):
    """A parameter's value outside what its declaration allows."""


class BadRecipe(GearshiftError, ValueError):
    """A recipe that cannot be read or cannot be carried out; all its faults are in `problems`."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        told = problems[:LISTED] + ([f"{len(problems) - LISTED} more faults."] if len(problems) > LISTED else [])
        super().__init__(told[0] if len(told) == 1 else "\n".join(f"- {p}" for p in told))


class WrongModel(GearshiftError, TypeError):
    """The model lacks something that an algorithm needs."""


class MissingExtra(GearshiftError, ImportError):
    """An optional package is not installed; the message has the line that installs it."""


class BrokenFolder(GearshiftError, OSError):
    """A saved folder that is not there, incomplete, altered or written by something else."""


class CannotRestore(GearshiftError, RuntimeError):
    """The original cannot be brought back because its weights were not kept."""


class GearshiftWarning(UserWarning):
    """Something did not do what it was asked for, or does it more slowly than the original."""


def suggestion(name: object, known: Iterable[str]) -> str:
    """'; did you mean ...?' for a near miss, else the list of what there is."""
    known = sorted(known)
    near = get_close_matches(name, known, n=2, cutoff=0.6) if isinstance(name, str) and len(name) < LONG else []
    if near:
        return "; did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "; there are: " + ", ".join(known) if known else "; there are none"


def quoted(value: object) -> str:
    """A value as a sentence repeats it: on one line, and never longer than a line."""
    try:
        text = " ".join(_BRIEF.repr(value).split())
    except Exception:  # a repr of the user's own may fail, and Python's of a very long int does
        text = f"<{type(value).__name__}>"
    return text if len(text) <= QUOTED + 2 else text[: QUOTED - 3] + "..."


def told(error: BaseException) -> str:
    """Another library's error as part of a sentence: on one line, without its final period, of bounded length."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= TOLD else text[: TOLD - 3] + "..."
    bare = isinstance(error, (KeyError, IndexError, AttributeError)) and not isinstance(error, GearshiftError)
    return text if text and not bare else f"{type(error).__name__} {text}".strip()


def _brief() -> reprlib.Repr:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = QUOTED
    brief.maxlevel, brief.maxdict, brief.maxlist, brief.maxtuple, brief.maxset = 3, 4, 6, 6, 6
    return brief


_BRIEF = _brief()


CannotLift = CannotRestore  # deprecated alias
