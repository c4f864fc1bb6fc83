"""The frame that a sampling loop runs in: which calls are made from it, and whether it has been left."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType

RESUMES = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those it was called from, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


class Loop:
    """The innermost frame that both the opening of a run and its first denoiser call were made from.

    Frames are told by their number and their code, so that none of their variables is kept alive. A call from another
    thread shares no frame with the opening; such a run cannot be told from its callers, and is trusted.

    Attributes:
        settled: the first call was made.
    """

    def __init__(self, opened: FrameType) -> None:
        self.thread = threading.get_ident()
        self.settled = False
        self._opened: dict[int, CodeType] = {id(f): f.f_code for f in callers(opened)}
        self._number = 0
        self._code: CodeType | None = None
        self._caller = 0
        self._depth = 0

    def settle(self, call: FrameType) -> None:
        """The first call of the denoiser is made from here."""
        for depth, frame in enumerate(callers(call)):
            if self._opened.get(id(frame)) is frame.f_code:
                self._take(frame)
                self._depth = depth
                break
        self.settled = True
        self.thread = threading.get_ident()
        self._opened = {}

    def settle_in(self, frame: FrameType) -> None:
        """The loop is known to run in this frame."""
        self._opened = {id(frame): frame.f_code}

    def depth(self, call: FrameType) -> int | None:
        """How many frames lie between a call and the loop; None if the call is not made from it."""
        if not self.settled:
            return next((d for d, f in enumerate(callers(call)) if self._opened.get(id(f)) is f.f_code), None)
        if self._code is None:
            return sys.maxsize
        number, depth = self._number, 0
        frame: FrameType | None = call
        while frame is not None:
            if id(frame) == number and frame.f_code is self._code:
                return depth
            frame = frame.f_back
            depth += 1
        return None

    def usual(self, depth: int) -> bool:
        """Whether the first call came from as deep."""
        return depth == self._depth or self._code is None

    def is_left(self) -> bool:
        """Whether the frame is gone, as far as that can be told: it cannot for a generator that waits."""
        return self._code is not None and not self.resumes and not self._is_there(self._top())

    @property
    def resumes(self) -> bool:
        """Whether the loop's frame may wait outside of any thread."""
        return self._code is not None and bool(self._code.co_flags & RESUMES)

    def is_running(self) -> bool:
        """Whether the frame is among the callers of what its thread does now."""
        return self._code is None or self._is_there(self._top())

    def has_returned(self, now: FrameType) -> bool:
        """Whether the frame's own caller goes on at this moment, so that no exception passed through."""
        return id(now) == self._caller

    def _take(self, frame: FrameType) -> None:
        self._number, self._code, self._caller = id(frame), frame.f_code, id(frame.f_back)

    def _top(self) -> FrameType | None:
        if threading.get_ident() == self.thread:
            return sys._getframe(1)
        return sys._current_frames().get(self.thread)

    def _is_there(self, top: FrameType | None) -> bool:
        return any(id(f) == self._number and f.f_code is self._code for f in callers(top))
