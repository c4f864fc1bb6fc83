"""Joining two texts of overlapping sound where they say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gearshift.runtimes.speech.words import Segment, Word

SLACK = 2.0  # seconds by which the times of one word may differ in two pieces that overlap
TELLING = 4  # letters of a word that alone is enough to join at


def stitched(
    left: Sequence[Segment], right: Sequence[Segment], begin: float, end: float, slack: float = SLACK
) -> list[Segment]:
    """One text of two, whose sound overlaps.

    The cut is made in the middle of the longest run of words that both have at about the same time; where there is
    none, in the middle of the overlap. Texts of sound that only touches are joined whole, but for such a run.

    Args:
        left, right: segments of the pieces before and behind the border, in seconds of the recording.
        begin, end: the seconds where `right`'s piece begins and `left`'s ends.
        slack: seconds by which the times of one word may differ.
    """
    near = len(left)
    while near and left[near - 1].end > begin - slack:
        near -= 1
    tail = [w for s in left[near:] for w in s.words if w.end > begin - slack]
    head = [w for s in right for w in s.words if w.start < end + slack]
    first, second = _border(tail, head, (begin + end) / 2 if begin < end else None, slack)
    kept = _without(left[near:], set(map(id, tail[first:])))
    return [*left[:near], *kept, *_without(right, set(map(id, head[:second])))]


def _border(tail: Sequence[Word], head: Sequence[Word], middle: float | None, slack: float) -> tuple[int, int]:
    """How many words to keep of `tail`, and how many to leave out of `head`; `middle` is seconds of an overlap."""
    size, a, b = _longest_run(tail, head, slack)
    if size >= 2 or (size == 1 and len(tail[a].key) >= TELLING):
        return a + (size + 1) // 2, b + (size + 1) // 2
    if middle is None:
        return len(tail), 0
    kept = sum(_center(word) < middle for word in tail)
    return kept, sum(_center(word) < middle for word in head)


def _longest_run(tail: Sequence[Word], head: Sequence[Word], slack: float) -> tuple[int, int, int]:
    """Length and first places of the longest common run; of equally long ones that with the closest times."""
    best, apart = (0, 0, 0), float("inf")
    run = [[0] * (len(head) + 1) for _ in range(len(tail) + 1)]
    for i, mine in enumerate(tail):
        for j, other in enumerate(head):
            away = abs(_center(mine) - _center(other))
            if mine.key != other.key or away > slack:
                continue
            size = run[i + 1][j + 1] = run[i][j] + 1
            if (size, -away) > (best[0], -apart):
                best, apart = (size, i + 1 - size, j + 1 - size), away
    return best


def _without(segments: Sequence[Segment], dropped: set[int]) -> list[Segment]:
    """Segments without some words, their times following; those that lose all words are gone."""
    found = []
    for segment in segments:
        kept = tuple(word for word in segment.words if id(word) not in dropped)
        if len(kept) == len(segment.words):
            found.append(segment)
        elif kept:
            start = segment.start if kept[0] is segment.words[0] else kept[0].start
            end = segment.end if kept[-1] is segment.words[-1] else kept[-1].end
            found.append(replace(segment, words=kept, start=start, end=end))
    return found


def _center(word: Word) -> float:
    return (word.start + word.end) / 2
