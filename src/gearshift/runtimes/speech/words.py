"""Outputs read as segments of words, each with its time."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gearshift.runtimes.speech.tokens import TICK, Tokens

Decode = Callable[[Sequence[int]], str]
Moment = Callable[[float, bool], float]  # from seconds, and whether something ends there, to seconds of another clock
BROKEN = "\ufffd"  # what a part of a character decodes to
SPACELESS = {"zh", "ja", "th", "lo", "my", "yue", "km", "bo"}
OPENING = set("\"'([{¿¡\u201c\u2018«")  # a mark that belongs to the word behind it if a space is in front of it


@dataclass(frozen=True)
class Word:
    """A word with its punctuation and the space in front of it.

    Attributes:
        start, end: seconds.
    """

    tokens: tuple[int, ...]
    text: str
    start: float
    end: float

    @property
    def key(self) -> str:
        """What makes two words the same: letters and digits, in lower case; of a mark, the mark."""
        letters = "".join(c for c in unicodedata.normalize("NFKC", self.text).lower() if c.isalnum())
        return letters or self.text.strip()

    def moved(self, moment: Moment) -> Word:
        """The same word in another clock."""
        start = moment(self.start, False)
        return replace(self, start=start, end=max(moment(self.end, True), start))


@dataclass(frozen=True)
class Segment:
    """What stands between a pair of timestamps.

    Attributes:
        start, end: seconds.
    """

    words: tuple[Word, ...]
    start: float
    end: float

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words)

    def moved(self, moment: Moment) -> Segment:
        """The same segment in another clock."""
        start = moment(self.start, False)
        end = max(moment(self.end, True), start)
        return Segment(tuple(word.moved(moment) for word in self.words), start, end)


@dataclass(frozen=True)
class ReadOutput:
    """An output as text.

    Attributes:
        segments: in seconds of the piece.
        reached: seconds of the piece that the output has told of.
        unfinished: whether it ends with the beginning of a segment, left for the piece that comes next.
    """

    segments: tuple[Segment, ...]
    reached: float
    unfinished: bool


def texts_of(output: Sequence[int], tokens: Tokens) -> list[int]:
    """The text tokens of an output."""
    return [token for token in output if token < tokens.end]


def read_output(
    output: Sequence[int],
    length: float,
    tokens: Tokens,
    decode: Decode,
    spaceless: bool = False,
    times: np.ndarray | None = None,
) -> ReadOutput:
    """Take an output apart.

    Args:
        output: text tokens and timestamps.
        length: seconds of the piece.
        spaceless: whether the language is written without spaces between words.
        times: seconds [text tokens + 1] at which tokens begin; without it words share their segment's time evenly.
    """
    segments: list[Segment] = []
    text: list[int] = []
    start, place = 0.0, 0

    def close(end: float) -> None:
        nonlocal place
        if decode(text).strip():
            spoken = np.linspace(start, end, len(text) + 1) if times is None else times[place : place + len(text) + 1]
            segments.append(Segment(tuple(words(text, spoken, decode, spaceless)), start, end))
        place += len(text)
        text.clear()

    for token in output:
        if token < tokens.end:
            text.append(token)
        elif token >= tokens.first_time:
            moment = min((token - tokens.first_time) * TICK, length)
            if text:
                close(moment)
            start = moment
    if len(output) >= tokens.most and segments:  # there was no room for more
        return ReadOutput(tuple(segments), start, True)
    ends_in_text = bool(text)
    if ends_in_text:
        close(length)
    timed = [token >= tokens.first_time for token in output[-2:]]
    return ReadOutput(tuple(segments), length if ends_in_text else start, len(output) > 2 and timed == [True, True])


def words(text: Sequence[int], times: np.ndarray, decode: Decode, spaceless: bool) -> list[Word]:
    """Group tokens into words.

    Args:
        times: seconds [tokens + 1] at which each token begins and the last one ends.
    """
    found: list[list[int]] = []
    parts = _characters(text, decode)
    said = [part for _, _, part in parts]
    for n, (first, last, _) in enumerate(parts):
        if found and not _begins(said, n, spaceless):
            found[-1][1] = last
        else:
            found.append([first, last])
    return [
        Word(tuple(text[a:b]), decode(text[a:b]), float(times[a]), float(times[b]))
        for a, b in found
        if decode(text[a:b]).strip()
    ]


def _characters(text: Sequence[int], decode: Decode) -> list[tuple[int, int, str]]:
    """Runs of tokens that decode to whole characters, as (first, last + 1, text)."""
    found, first = [], 0
    for last in range(1, len(text) + 1):
        said = decode(text[first:last])
        if not said.endswith(BROKEN) or last == len(text):
            found.append((first, last, said))
            first = last
    return found


def _begins(said: Sequence[str], n: int, spaceless: bool) -> bool:
    """Whether a new word begins with the n-th part of a text."""
    if said[n].startswith(" "):
        letter = "".join(said[n : n + 2]).strip()[:1]
        return letter.isalnum() or letter in OPENING
    return spaceless and said[n][:1].isalnum() and said[n - 1].strip() not in OPENING
