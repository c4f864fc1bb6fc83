"""Transaction: what a verb does to a model happens as a whole or not at all, whatever ends it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from gearshift.core.snapshot import Snapshot


class Transaction:
    """A block at whose failure models are put back as they were, bit for bit; also at Ctrl-C and out of memory.

    Weights that are replaced inside of the block stay in memory until its end. While the models are put back, signals
    wait: a second Ctrl-C comes through afterwards.

    Args:
        models: pipelines, modules, or anything that leads to them.
        keep: whether a block that succeeds changes them; False puts them back in any case.
        hold: signals wait until the block's end, for one that must not be broken off.
    """

    def __init__(self, *models: Any, keep: bool = True, hold: bool = False) -> None:
        self.models, self.keep, self.hold = models, keep, hold
        self._handlers: dict[int, Any] = {}
        self._waiting: list[int] = []

    def __enter__(self) -> Transaction:
        self._snapshot = Snapshot(*self.models)
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in signal.valid_signals()}
            self._handlers = {number: handler for number, handler in found.items() if callable(handler)}
        try:
            for number in self._handlers:
                signal.signal(number, self._signaled)
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is not None or not self.keep:
                self._snapshot.back()
        finally:
            del self._snapshot
            self._give_back()
        for number in self._waiting:
            if kind is not KeyboardInterrupt or number != signal.SIGINT:
                signal.raise_signal(number)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _signaled(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on, unless the models are being put back, which it would break off."""
        if self.hold or self._ends_in(frame):
            self._waiting.append(number)
        else:
            self._handlers[number](number, frame)

    def _ends_in(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code is Transaction.__exit__.__code__ and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False
