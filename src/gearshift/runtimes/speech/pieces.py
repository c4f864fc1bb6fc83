"""Cutting a recording into pieces that fit the model's window, at pauses where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.vad import Span

PAD, KEPT = 0.4, 0.8  # seconds of sound kept around a piece, and of a longer pause within one
FULL, CLEAR = 0.7, 0.5  # the share of the window that a piece should fill; seconds of a pause as good as any longer


@dataclass(frozen=True)
class Piece:
    """A part of a recording that is transcribed at once.

    Attributes:
        ranges: the samples [start, end) it is made of, in order; what lies between them is silence that was left out.
        open: whether it ends in the middle of speech, as there was no pause to cut at.
    """

    ranges: tuple[Span, ...]
    open: bool = False

    @property
    def start(self) -> int:
        """Sample of the recording."""
        return self.ranges[0][0]

    @property
    def end(self) -> int:
        return self.ranges[-1][1]

    @property
    def length(self) -> int:
        """Samples."""
        return sum(end - start for start, end in self.ranges)

    def of(self, samples: np.ndarray) -> np.ndarray:
        """The piece's own samples."""
        return np.concatenate([samples[start:end] for start, end in self.ranges])

    def moment(self, seconds: float, closing: bool = False) -> float:
        """A time in the piece as one in the recording; at a seam, `closing` says that something ends there."""
        left = max(seconds * RATE, 0.0)
        for start, end in self.ranges:
            if left < end - start or (closing and left <= end - start):
                return (start + left) / RATE
            left -= end - start
        return self.end / RATE


def next_piece(spans: Sequence[Span], before: int, total: int, most: int) -> Piece:
    """The piece that begins with the first span.

    It ends in the longest of the pauses that leave it well filled, or where it is full if there is none.

    Args:
        spans: speech that is still to be heard, as samples [start, end), in order.
        before: the sample before which all is done.
        total: samples of the recording.
        most: samples of the window.
    """
    fitting = []
    for last in range(len(spans)):
        ranges = _ranges(spans, last, before, total)
        length = sum(end - start for start, end in ranges)
        if length > most:
            break
        fitting.append((last, length, ranges))
    if len(fitting) == len(spans):
        return Piece(fitting[-1][2])
    filled = [(last, found) for last, length, found in fitting if length >= FULL * most]
    if not filled:
        return Piece(_first(_ranges(spans, len(fitting), before, total), most), open=True)
    pause = {last: min(spans[last + 1][0] - spans[last][1], int(CLEAR * RATE)) for last, _ in filled}
    return Piece(max(filled, key=lambda f: (pause[f[0]], f[0]))[1])


def sections(spans: Sequence[Span], count: int) -> list[list[Span]]:
    """Spans in at most `count` parts of about equal length, parted at long pauses near the even places."""
    if count < 2 or len(spans) < 2:
        return [list(spans)] if spans else []
    heard = np.cumsum([end - start for start, end in spans])
    pauses = np.array([right[0] - left[1] for left, right in pairwise(spans)])
    share = heard[-1] / count
    cuts = set()
    for n in range(1, count):
        near = np.flatnonzero(np.abs(heard[:-1] - n * share) < share / 4)
        if near.size:
            cuts.add(int(near[pauses[near].argmax()]) + 1)
    edges = [0, *sorted(cuts), len(spans)]
    return [list(spans[a:b]) for a, b in pairwise(edges)]


def _ranges(spans: Sequence[Span], last: int, before: int, total: int) -> tuple[Span, ...]:
    """Spans up to `last` with the pauses between them, long ones shortened, and a little of those around them."""
    pad, kept = int(PAD * RATE), int(KEPT * RATE)
    found = [[max(spans[0][0] - pad, min(before, spans[0][0])), spans[0][1]]]
    for left, right in pairwise(spans[: last + 1]):
        if right[0] - left[1] <= kept:
            found[-1][1] = right[1]
        else:
            found[-1][1] = left[1] + kept // 2
            found.append([right[0] - kept // 2, right[1]])
    behind = (spans[last + 1][0] - spans[last][1]) // 2 if last + 1 < len(spans) else total - spans[last][1]
    found[-1][1] += min(pad, behind)
    return tuple((start, end) for start, end in found)


def _first(ranges: Sequence[Span], most: int) -> tuple[Span, ...]:
    """As much of the ranges as `most` samples."""
    found = []
    for start, end in ranges:
        found.append((start, min(end, start + most)))
        most -= found[-1][1] - start
        if most <= 0:
            break
    return tuple(found)
