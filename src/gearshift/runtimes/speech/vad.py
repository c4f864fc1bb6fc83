"""Where there is speech: spans of samples between pauses."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any

import numpy as np

from gearshift.core.extras import need
from gearshift.runtimes.speech.audio import RATE

HOP, FRAME = RATE // 100, 3 * RATE // 100
PAUSE, BLIP = 0.2, 0.04  # seconds: shorter dips are no pauses, shorter sounds are no speech
MARGIN, SHARE = (5.0, 12.0), 0.3  # dB above the quiet parts, and the share of the way to the loud ones
DEEP, DEEPEST = 25.0, 60.0  # dB that pauses are below the loud parts: at least, or they may be words; at most
NOTHING = -120.0  # dB of full scale: digital silence
LIKELY = 0.3  # the network's probability of speech; low, since silence costs less than a lost word
PART = 60  # seconds of a recording that are worth being searched apart from the rest
EMPHASIS = 0.7  # of high frequencies, so that faint consonants count

Span = tuple[int, int]


def by_energy(samples: np.ndarray) -> list[Span]:
    """Spans [start, end) that are louder than the quiet parts of the recording.

    What is at most a few decibels above the quietest tenth counts as a pause, so that faint speech is not lost. Sound
    without deep pauses is one span; digital silence has none.
    """
    level = _level(samples)
    top = float(np.quantile(level, 0.999)) if level.size else NOTHING
    if top <= NOTHING:
        return []
    floor = max(float(np.quantile(level, 0.1)), top - DEEPEST)
    threshold = floor + float(np.clip(SHARE * (top - floor), *MARGIN))
    threshold = min(threshold, top - DEEP)
    return _spans(level > threshold, HOP, len(samples))


def by_silero(samples: np.ndarray, threads: int = 1) -> list[Span]:
    """Spans [start, end) that the Silero network takes for speech (faster-whisper carries it; onnxruntime runs it).

    Args:
        threads: how many parts of a long recording are searched side by side, each by itself.
    """
    vad: Any = need("faster_whisper.vad", "speech", "Finding speech by the Silero network")
    options = vad.VadOptions(threshold=LIKELY, min_silence_duration_ms=int(1000 * PAUSE), speech_pad_ms=32)
    size = max(ceil(len(samples) / threads), PART * RATE)

    def within(first: int) -> list[Span]:
        found = vad.get_speech_timestamps(np.asarray(samples[first : first + size], np.float32), options)
        return [(first + int(span["start"]), first + int(span["end"])) for span in found]

    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(within, range(0, len(samples), size))
        return _joined((span for part in parts for span in part), 1, 0)  # what goes on across an edge touches it


def _level(samples: np.ndarray) -> np.ndarray:
    """Loudness in dB of frames of 30 ms every 10 ms."""
    if len(samples) < 2:
        return np.zeros(0)
    emphasized = np.append(samples[:1], samples[1:] - EMPHASIS * samples[:-1]).astype(np.float64)
    power = np.append(0.0, np.cumsum(emphasized**2))
    starts = np.arange(0, max(len(samples) - FRAME, 0) + 1, HOP)
    ends = np.minimum(starts + FRAME, len(samples))
    mean = np.maximum(power[ends] - power[starts], 0.0) / (ends - starts)
    return 10 * np.log10(np.maximum(mean, 1e-14))


def _spans(voiced: np.ndarray, hop: int, length: int) -> list[Span]:
    """Runs of voiced frames as samples: blips dropped, short dips closed."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], voiced.astype(np.int8), [0]))))
    found = ((int(start) * hop, min(int(end) * hop + FRAME - hop, length)) for start, end in edges.reshape(-1, 2))
    return _joined(found, PAUSE * RATE, BLIP * RATE)


def _joined(found: Iterable[Span], pause: float, shortest: float) -> list[Span]:
    """Spans in order, in samples: those with less than a pause between them made one, short ones dropped."""
    spans: list[Span] = []
    for first, last in found:
        if spans and first - spans[-1][1] < pause:
            spans[-1] = (spans[-1][0], last)
        elif last - first >= shortest:
            spans.append((first, last))
    return spans
