"""The open runs of a thread or task: which one goes on, and which were left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gearshift.steps.run import Run, _current, open_runs


def use(run: Run) -> None:
    """Make an open run the innermost one."""
    runs = _current.get() or ()
    if not runs or runs[-1] is not run:
        _current.set((*(r for r in runs if r is not run and not r.over), run))


@contextmanager
def closing() -> Iterator[None]:
    """Runs that are opened inside of the block and left open end with it."""
    before = open_runs()
    try:
        yield
    finally:
        for run in open_runs():
            if run not in before:
                run.end()


def drop_abandoned() -> None:
    """Drop what is kept of runs whose loops were left."""
    for run in open_runs():
        if run.is_forsaken():
            run.drop()
