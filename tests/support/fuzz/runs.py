"""Running mutated cases: each is numbered and drawn by itself, so that one of them can be run again."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from support.fuzz import cases

from gearshift.core.errors import GearshiftError

KINDS: dict[str, Callable[[], cases.Act]] = {
    "manifest": cases.manifest,
    "plan": cases.plan,
    "recipe": cases.recipe,
    "checkpoint": cases.checkpoint,
    "arguments": cases.arguments,
}
NAMED = {"manifest", "plan", "checkpoint"}  # what is one file or folder, which the sentence has to name
SECONDS = 20  # that one case may take
LINE = 1500  # characters that one sentence may have; lists of what there is are long


class TooLong(BaseException):
    """A case that takes too long."""


@dataclass
class Outcome:
    """How many cases were read, how many were refused, and each raw error once, with the case that gave it."""

    counts: Counter[str] = field(default_factory=Counter)
    raw: dict[str, tuple[int, str]] = field(default_factory=dict)


def run(kind: str, seed: int, seconds: float, numbers: Iterator[int]) -> Outcome:
    """Run the cases of these numbers, as many as fit into the time."""
    act, outcome, end = KINDS[kind](), Outcome(), time.monotonic() + seconds
    logging.disable(logging.CRITICAL)  # other libraries log what they find, too
    try:
        for number in numbers:
            if time.monotonic() > end:
                break
            word, error = _one(kind, act, Random(f"{kind} {seed} {number}"))
            outcome.counts[word] += 1
            if word == "raw":
                outcome.raw.setdefault(error.partition("\n")[0][:80], (number, error))
    finally:
        logging.disable(logging.NOTSET)
    return outcome


def _one(kind: str, act: cases.Act, draw: Random) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _limited():
        warnings.simplefilter("ignore")
        try:
            act(draw, Path(folder))
        except GearshiftError as error:
            fault = _fault(kind, str(error), folder)
            return ("raw", f"{fault}: {error!r}") if fault else ("refused", "")
        except (Exception, SystemExit, TooLong) as error:
            return "raw", f"{type(error).__name__}: {error}\n{''.join(traceback.format_exc()[-1500:])}"
    return "read", ""


def _fault(kind: str, sentence: str, folder: str) -> str | None:
    """What is wrong with a sentence."""
    lines = sentence.splitlines()
    if any(len(line) > LINE for line in lines) or len(lines) > 30:
        return "too long a message"
    if len(lines) > 1 and not all(line.startswith("- ") for line in lines):
        return "several lines that are no list"
    return "a message without the file's name" if kind in NAMED and folder not in sentence else None


@contextmanager
def _limited() -> Iterator[None]:
    """No longer than SECONDS."""

    def stop(*_: Any) -> None:
        raise TooLong(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
