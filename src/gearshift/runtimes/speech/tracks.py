"""Working through recordings: each in sections that are read side by side, a section piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.engines import Engine
from gearshift.runtimes.speech.fallback_decoding import hear
from gearshift.runtimes.speech.pieces import Piece, next_piece
from gearshift.runtimes.speech.stitch import stitched
from gearshift.runtimes.speech.vad import Span
from gearshift.runtimes.speech.words import Decode, ReadOutput, Segment, Word, read_output

REST = 0.25  # seconds of speech behind an unfinished output that are worth another look
SKIPPED = 0.5  # the same behind a finished one: the model has passed over words
NEAR = 0.4  # seconds by which a timestamp may miss the pause it means
STRIDE = 1.0  # seconds that a piece goes on at least
BREATH = 0.3  # seconds of a pause that no word goes across


@dataclass
class Track:
    """A section of a recording, read from its first span of speech to its last.

    A piece may be told of in part: what its output leaves out is heard again at the beginning of the piece that
    follows, so that no words are lost. Where a piece had to end in the middle of speech, the next one overlaps it.

    Attributes:
        samples: the whole recording, float32 at 16 kHz.
        spans: where there is speech in this section.
        most: samples of a piece.
        overlap: samples.
        prompt: what the decoder is given first.
        spaceless: whether the language is written without spaces between words.
        at: the sample up to which all is told.
        segments: what was told, in seconds of the recording.
        cut: the sample where the last piece ended in the middle of speech; 0 if it did not.
    """

    samples: np.ndarray
    spans: Sequence[Span]
    most: int
    overlap: int
    prompt: Sequence[int] = ()
    spaceless: bool = False
    at: int = 0
    segments: list[Segment] = field(default_factory=list)
    cut: int = 0

    @property
    def left(self) -> list[Span]:
        """Speech that nothing was told of yet."""
        return [(max(start, self.at), end) for start, end in self.spans if end > self.at]

    def next(self) -> Piece:
        """The piece to be heard."""
        return next_piece(self.left, self.at, len(self.samples), self.most)

    def take(self, piece: Piece, reading: ReadOutput) -> None:
        """Take in what was heard, and go on to where it ends."""
        found = [self._spoken(segment.moved(piece.moment)) for segment in reading.segments]
        if self.cut > piece.start:
            self.segments = stitched(self.segments, found, piece.start / RATE, self.cut / RATE)
        else:  # the model's timestamps may be early, and a word come again
            self.segments = stitched(self.segments, found, piece.start / RATE, piece.start / RATE, NEAR)
        self.cut = 0
        told = self._at_pause(round(piece.moment(reading.reached, True) * RATE))
        untold = sum(max(min(end, piece.end) - max(start, told), 0) for start, end in self.spans)
        if told >= piece.start + STRIDE * RATE and untold >= (REST if reading.unfinished else SKIPPED) * RATE:
            self.at = told
        elif piece.open:
            self.at, self.cut = piece.end - self.overlap, piece.end
        else:
            self.at = piece.end

    def _at_pause(self, sample: int) -> int:
        """The sample, moved into the pause that it means, if there is one near it."""
        pauses = [(end, start) for (_, end), (start, _) in pairwise(self.spans)]
        moved = [min(max(sample, end), start) for end, start in pauses]
        nearest = min(moved, key=lambda place: abs(place - sample), default=sample)
        return nearest if abs(nearest - sample) <= NEAR * RATE else sample

    def _spoken(self, segment: Segment) -> Segment:
        """The segment, its words without the pauses that alignment gives to one of their neighbors."""
        return replace(segment, words=tuple(map(self._without_pauses, segment.words)))

    def _without_pauses(self, word: Word) -> Word:
        parts: list[list[float]] = []
        for first, last in self.spans:
            start, end = max(first / RATE, word.start), min(last / RATE, word.end)
            if end <= start:
                continue
            if parts and start - parts[-1][1] < BREATH:
                parts[-1][1] = end
            else:
                parts.append([start, end])
        if not parts:
            return word
        start, end = max(parts, key=lambda part: part[1] - part[0])
        return replace(word, start=start, end=end)


@dataclass(frozen=True)
class Reader:
    """Reads tracks with an engine.

    Attributes:
        decode: from text tokens to text.
        batch: pieces at once.
        seed: of sampling.
        timed: whether words are aligned with the sound.
    """

    engine: Engine
    decode: Decode
    batch: int
    seed: int = 0
    timed: bool = False

    def read(self, tracks: Sequence[Track], told: Callable[[], Any] = lambda: None) -> None:
        """Read tracks to their ends, as many at once as there are pieces in a batch; a finished one makes room.

        Args:
            told: called after each batch.
        """
        waiting = [track for track in tracks if track.left]
        while waiting:
            now = waiting[: self.batch]
            self.step(now)
            told()
            waiting = [track for track in now if track.left] + waiting[self.batch :]

    def step(self, tracks: Sequence[Track]) -> None:
        """One piece of each track."""
        pieces = [track.next() for track in tracks]
        sounds = [piece.of(track.samples) for track, piece in zip(tracks, pieces, strict=True)]
        seeds = [self.seed + piece.start for piece in pieces]
        heard = hear(self.engine, sounds, [t.prompt for t in tracks], seeds, self.decode, self.timed)
        for track, piece, result in zip(tracks, pieces, heard, strict=True):
            length = piece.length / RATE
            spoken = read_output(result.output, length, self.engine.tokens, self.decode, track.spaceless, result.times)
            track.take(piece, spoken)
