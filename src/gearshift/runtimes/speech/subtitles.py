"""Text with times as files that players and programs read: plain text, SRT, WebVTT, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def to_text(answer: Mapping[str, Any]) -> str:
    """The text alone, ending in a line break."""
    return f"{answer['text'].strip()}\n"


def to_srt(answer: Mapping[str, Any]) -> str:
    """SubRip: numbered cues, hours:minutes:seconds,milliseconds."""
    cues = [f"{n}\n{_times(cue, ',')}\n{_line(cue)}\n" for n, cue in enumerate(_cues(answer), 1)]
    return "\n".join(cues)


def to_vtt(answer: Mapping[str, Any]) -> str:
    """WebVTT (W3C): cues under the line that names the format."""
    return "\n".join(["WEBVTT\n", *(f"{_times(cue, '.')}\n{_line(cue)}\n" for cue in _cues(answer))])


def to_json(answer: Mapping[str, Any]) -> str:
    """The answer as a transcriber gives it, ending in a line break."""
    return json.dumps(answer, ensure_ascii=False, indent=1) + "\n"


WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {"txt": to_text, "srt": to_srt, "vtt": to_vtt, "json": to_json}


def _cues(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [cue for cue in answer["chunks"] if cue["text"].strip()]


def _line(cue: Mapping[str, Any]) -> str:
    return " ".join(cue["text"].split()).replace("-->", "->")  # an arrow in a text would end its cue


def _times(cue: Mapping[str, Any], point: str) -> str:
    start, end = cue["timestamp"]
    return f"{_clock(start, point)} --> {_clock(max(start, end), point)}"


def _clock(seconds: float, point: str) -> str:
    thousandths = round(1000 * seconds)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
