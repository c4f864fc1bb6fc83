"""How far long work is: a bar with the time left on a terminal, elsewhere a line now and then; none for short work."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gearshift.core.log import logger

T = TypeVar("T")
AFTER = 2.0  # seconds of work before anything is shown
EVERY = 30.0  # seconds between lines where there is no terminal

_open = threading.local()


def progress_line(sentence: str) -> None:
    """One line for the user, on standard error; none where `set_verbosity` asks for warnings and errors alone."""
    if not _is_quiet():
        print(f"gearshift: {sentence}", file=sys.stderr)


def _is_quiet() -> bool:
    return logger.level > logging.INFO


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progress]:
    """Show how far a block is; inside of another such block nothing is shown.

    Args:
        what: is being done, for the bar; it begins with the algorithm's name.
        total: steps until it is done; None: told later, by `update`.
    """
    made = Progress(what, total, shown=not getattr(_open, "any", False) and not _is_quiet())
    before, _open.any = getattr(_open, "any", False), True
    try:
        yield made
    finally:
        _open.any = before
        made.close()


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Go through items and show how far it is."""
    found = list(items)
    with progress(what, len(found)) as bar:
        for item in found:
            yield item
            bar.advance()


class Progress:
    """One piece of work; `progress` makes it."""

    def __init__(self, what: str, total: int | None, shown: bool) -> None:
        self.what, self.total, self.done = what, total, 0
        self._started = self._told = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None
        self._shown, self._drawn = shown, sys.stderr.isatty() or "ipykernel" in sys.modules
        self._timer = threading.Timer(AFTER, self._show)
        self._timer.daemon = True
        if shown and self._drawn:
            self._timer.start()

    def advance(self) -> None:
        """One more step is done."""
        self.update(self.done + 1)

    def update(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """So many steps are done."""
        with self._lock:
            self.done, self.total, self.what = done, total or self.total, what or self.what
            if self._bar is not None:
                self._bar.update(self._task, completed=done, total=self.total, description=self.what)
        if self._shown and not self._drawn:
            self._tell()

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._shown = False
            if self._bar is not None:
                self._bar.stop()

    def _show(self) -> None:
        """Called in a thread of its own after a while: put a bar on the terminal."""
        from rich import progress as rich
        from rich.console import Console

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
        times = (rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn())
        with self._lock:
            if self._shown:
                bar = rich.Progress(*columns, *times, console=Console(stderr=True), transient=True)
                self._task = bar.add_task(self.what, total=self.total, completed=self.done)
                bar.start()
                self._bar = bar

    def _tell(self) -> None:
        """A line, at most every so often."""
        now = time.monotonic()
        if now - self._told < EVERY or not self.total or self.done >= self.total:
            return
        self._told = now
        left = (now - self._started) / max(self.done, 1) * (self.total - self.done)
        progress_line(f"{self.what}: {self.done} of {self.total}, about {_words(left)} left.")


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
