"""Speech that is still coming in: heard as soon as a window is full or the speaker pauses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.stitch import SLACK
from gearshift.runtimes.speech.tracks import NEAR, Reader, Track
from gearshift.runtimes.speech.vad import Span
from gearshift.runtimes.speech.words import Segment

LOOK = 1.0  # seconds of new sound between two looks for speech
REPLY = 2.0  # seconds of silence after which what was said is heard at once
KEPT = 1.0  # seconds of silence that are kept of a longer one


class Live:
    """One stream, in chunks of any size.

    Args:
        reader: hears pieces.
        find: finds spans of speech.
        track: an empty one, which is filled as sound comes in.
        prepare: called once, before the track's first piece is heard.
    """

    def __init__(
        self,
        reader: Reader,
        find: Callable[[np.ndarray], list[Span]],
        track: Track,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.reader, self.find, self.track = reader, find, track
        self.prepare: Callable[[], None] | None = prepare
        self.dropped = 0  # samples that are no longer kept
        self.looked = 0  # samples of those kept that were there at the last look

    def feed(self, chunk: np.ndarray) -> list[Segment]:
        """Segments that are settled now, in seconds of the stream."""
        track = self.track
        track.samples = np.concatenate([track.samples, chunk])
        if len(track.samples) - self.looked < LOOK * RATE:
            return []
        self.looked = len(track.samples)
        track.spans = self.find(track.samples)
        while track.left and self._ready():
            self._step()
        return self._settled()

    def finish(self) -> list[Segment]:
        """The rest."""
        self.track.spans = self.find(self.track.samples)
        while self.track.left:
            self._step()
        self.track.cut = 0
        return self._settled()

    def _step(self) -> None:
        if self.prepare is not None:
            self.prepare()
            self.prepare = None
        self.reader.step([self.track])

    def _ready(self) -> bool:
        """Whether more sound would not change the next piece."""
        left = self.track.left
        said = sum(end - start for start, end in left)
        return said > self.track.most or len(self.track.samples) - left[-1][1] >= REPLY * RATE

    def _settled(self) -> list[Segment]:
        """Take out the segments that no later piece can change, and forget the sound that is done with."""
        track, here = self.track, self.dropped / RATE
        bound = track.at / RATE - (SLACK if track.cut else NEAR) if track.left else np.inf
        settled = [
            segment.moved(lambda seconds, _: seconds + here) for segment in track.segments if segment.end <= bound
        ]
        track.segments = track.segments[len(settled) :]
        self._forget(track.left[0][0] if track.left else len(track.samples) - int(KEPT * RATE))
        return settled

    def _forget(self, count: int) -> None:
        if count <= 0:
            return
        track = self.track
        track.samples = track.samples[count:]
        track.spans = [(max(start - count, 0), end - count) for start, end in track.spans if end > count]
        track.at, track.cut = max(track.at - count, 0), max(track.cut - count, 0)
        track.segments = [segment.moved(lambda seconds, _: seconds - count / RATE) for segment in track.segments]
        self.dropped, self.looked = self.dropped + count, self.looked - count
