"""Errors are sentences: what was wrong with the value, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GearshiftError(Exception):
    """Base of every error that gearshift raises on purpose."""


class UnknownName(GearshiftError, KeyError):
    """A name that nothing answers to; the message lists the nearest ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.name, self.known = name, sorted(known)
        super().__init__(f"There is no {kind} {name!r}{suggestion(str(name), self.known)}")

    def __str__(self) -> str:
        return str(self.args[0])


class BadValue(GearshiftError, ValueError):
    """A parameter's value outside what its declaration allows."""


class BadRecipe(GearshiftError, ValueError):
    """A recipe that cannot be read or cannot be carried out; all its faults are in `problems`."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(problems[0] if len(problems) == 1 else "\n".join(f"- {p}" for p in problems))


class WrongModel(GearshiftError, TypeError):
    """The model lacks something that an algorithm needs."""


class MissingExtra(GearshiftError, ImportError):
    """An optional package is not installed; the message has the line that installs it."""


class BrokenFolder(GearshiftError, OSError):
    """A saved folder that is not there, incomplete, altered or written by something else."""


class CannotLift(GearshiftError, RuntimeError):
    """The original cannot be brought back because its weights were not kept."""


class GearshiftWarning(UserWarning):
    """Something did not do what it was asked for, or does it more slowly than the original."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for a near miss, else the list of what there is."""
    known = sorted(known)
    near = get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "; there are: " + ", ".join(known) if known else "; there are none"
