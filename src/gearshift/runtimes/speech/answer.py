"""Answers in the shape of transformers' pipeline for speech recognition, and how far the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.tracks import Track
from gearshift.runtimes.speech.words import Segment


def answer(segments: Sequence[Segment], return_timestamps: bool | str) -> dict[str, Any]:
    """{"text": ...}, with timestamps also "chunks"."""
    said = {"text": "".join(segment.text for segment in segments)}
    return {**said, "chunks": chunks(segments, return_timestamps)} if return_timestamps else said


def chunks(segments: Sequence[Segment], return_timestamps: bool | str) -> list[dict[str, Any]]:
    """Segments, or for 'word' words: {"text": ..., "timestamp": (start, end)} each, in seconds."""
    parts = segments if return_timestamps is True else [word for segment in segments for word in segment.words]
    return [{"text": part.text, "timestamp": (round(part.start, 2), round(part.end, 2))} for part in parts]


@contextmanager
def shown(progress: bool | Callable[[float, float], Any], tracks: Sequence[Track]) -> Iterator[Callable[[], Any]]:
    """Gives what is to be told after each batch: it moves a bar, or calls a function with seconds done and in all."""
    total = _left(tracks)

    def done() -> float:
        return total - _left(tracks)

    if callable(progress):
        yield lambda: progress(done(), total)
    elif progress:
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task("transcribing", total=total)
            yield lambda: bar.update(task, completed=done())
    else:
        yield lambda: None


def _left(tracks: Sequence[Track]) -> float:
    """Seconds of speech that are not done."""
    return sum(end - start for track in tracks for start, end in track.left) / RATE
