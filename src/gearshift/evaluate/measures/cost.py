"""Metrics of what a model costs: seconds, tokens a second, memory, bytes on disk, energy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from gearshift.core.errors import BadValue, GearshiftError
from gearshift.core.facts import Kind
from gearshift.core.model import size_bytes
from gearshift.evaluate.memory import peak_bytes
from gearshift.evaluate.metric import metric
from gearshift.evaluate.performance import Performance
from gearshift.persist.store import save

TEXTS, SOUND = frozenset({Kind.LANGUAGE}), frozenset({Kind.SPEECH})
IMAGES = frozenset({Kind.DIFFUSION})


@metric("speedup", "x", "higher", whole=True, compares=True)
def _speedup(mine: Performance, original: Performance) -> float:
    """How many times as fast as the original: the median over calls that took turns."""
    return median(theirs / ours for ours, theirs in zip(mine.seconds, original.seconds, strict=True))


@metric("latency", "s", "lower", whole=True, format=".3f")
def _latency(mine: Performance, original: Performance | None) -> float:
    """Seconds of a later call, the median."""
    return median(mine.seconds)


@metric("seconds_per_image", "s", "lower", whole=True, kinds=IMAGES, usual=False, format=".3f")
def _seconds_per_image(mine: Performance, original: Performance | None) -> float:
    """Seconds of a later call for each of its images, the median."""
    return median(s / n for s, n in zip(mine.seconds, mine.items, strict=True))


@metric("latency_p95", "s", "lower", whole=True, format=".3f")
def _latency_p95(mine: Performance, original: Performance | None) -> float:
    """Seconds of a later call that 95 % of them stay below."""
    return float(np.percentile(mine.seconds, 95))


@metric("first_call", "s", "lower", whole=True, format=".3f")
def _first_call(mine: Performance, original: Performance | None) -> float:
    """Seconds of the very first call, with compiling and whatever else comes once."""
    return mine.first


@metric("throughput", "images/s", "higher", whole=True, kinds=IMAGES, usual=False)
def _throughput(mine: Performance, original: Performance | None) -> float:
    """Images a second, in calls as they are given."""
    return sum(mine.items) / sum(mine.seconds)


@metric("tokens_per_second", "tokens/s", "higher", whole=True, kinds=TEXTS, format=".1f")
def _tokens_per_second(mine: Performance, original: Performance | None) -> float:
    """New tokens a second, the first one and the reading of the prompt included."""
    return sum(a.new_tokens for a in mine.answers) / sum(mine.seconds)


@metric("first_token", "s", "lower", whole=True, kinds=TEXTS, format=".3f")
def _first_token(mine: Performance, original: Performance | None) -> float:
    """Seconds until the first new token, the median."""
    return median(a.first_token or a.seconds for a in mine.answers)


@metric("real_time_factor", "s/s", "higher", whole=True, kinds=SOUND, format=".1f")
def _real_time_factor(mine: Performance, original: Performance | None) -> float:
    """Seconds of sound that are transcribed in a second."""
    return sum(a.sound for a in mine.answers) / sum(mine.seconds)


@metric("peak_memory", "MB", "lower", whole=True, format=".1f")
def _peak_memory(mine: Performance, original: Performance | None) -> float:
    """Memory at its peak: the weights, and the most that torch allocates besides during a call."""
    return (_held(mine) + peak_bytes(lambda: mine.subject.seconds(mine.example))) / 1e6


@metric("weights", "MB", "lower", whole=True, format=".1f")
def _weights(mine: Performance, original: Performance | None) -> float:
    """Parameters and buffers in memory."""
    return _held(mine) / 1e6


@metric("disk", "MB", "lower", whole=True, format=".1f", usual=False)
def _disk(mine: Performance, original: Performance | None) -> float:
    """The saved model."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            save(mine.subject.model, Path(folder) / "model")
        except GearshiftError as error:
            raise BadValue(str(error)) from None
        return sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6


@metric("energy", "J", "lower", whole=True, format=".1f")
def _energy(mine: Performance, original: Performance | None) -> float:
    """Energy of a call, the median, as the machine's counters have it."""
    if not mine.joules:
        raise BadValue("this machine does not tell its energy")
    return median(mine.joules)


def _held(mine: Performance) -> int:
    with mine.subject.within():
        return size_bytes(mine.subject.model)
