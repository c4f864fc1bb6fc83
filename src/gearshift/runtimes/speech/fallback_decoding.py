"""Decoding a batch of pieces, again where an output is not to be trusted (Whisper, arXiv 2212.04356, section 4.5)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gearshift.runtimes.speech.engines import Engine, Output
from gearshift.runtimes.speech.words import Decode, texts_of

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LOOPING = 2.4  # text that zlib makes as many times shorter repeats itself
UNSURE = -1.0  # mean log-probability of a token
SILENT = 0.6  # probability that nobody speaks
INVENTED = -2.0  # mean log-probability below which not one word is likely


@dataclass(frozen=True)
class Heard:
    """What was made of one piece.

    Attributes:
        output: its tokens; none where nobody speaks.
        times: seconds [text tokens + 1] at which they begin and the last one ends; None unless asked for.
    """

    output: tuple[int, ...]
    times: np.ndarray | None = None


def hear(
    engine: Engine,
    pieces: Sequence[np.ndarray],
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    decode: Decode,
    timed: bool = False,
) -> list[Heard]:
    """Tokens of each piece.

    Outputs that repeat themselves or that the model is not sure of are made again at rising temperatures until one is
    sound; where none is, the best of them is taken. What the model is unsure of and takes for silence is left out, as
    are outputs without a letter: tones and noise have no words, and a high temperature finds some in anything.

    Args:
        pieces: samples of each, at most a window long.
        seeds: of each piece's sampling.
        timed: whether the time of each token is wanted.
    """
    encoded = engine.encode(pieces)
    best: dict[int, tuple[tuple, Output]] = {}
    rows = list(range(len(pieces)))
    for temperature in TEMPERATURES:
        part = encoded if len(rows) == len(pieces) else engine.pick(encoded, rows)
        made = engine.decode(part, [prompts[r] for r in rows], temperature, [seeds[r] for r in rows])
        for row, output in zip(rows, made, strict=True):
            rank = _rank(output, decode(texts_of(output.tokens, engine.tokens)))
            best[row] = max(best.get(row, (rank, output)), (rank, output), key=lambda ranked: ranked[0])
        rows = [row for row in rows if not best[row][0][0]]
        if not rows:
            break
    outputs = [() if _wordless(*best[row], engine, decode) else best[row][1].tokens for row in range(len(pieces))]
    if not timed:
        return [Heard(output) for output in outputs]
    return _timed(engine, encoded, pieces, prompts, outputs)


def compression_ratio(text: str) -> float:
    """Bytes of a text over those that zlib makes of them; text that repeats itself is above 2.4."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _rank(output: Output, text: str) -> tuple[bool, bool, float]:
    """Whether it is sound, whether it is at least no loop, and how sure the model is; the higher the better."""
    loops = compression_ratio(text) > LOOPING
    sure = output.confidence >= UNSURE or _silence(output)
    return (sure and not loops, not loops, output.confidence)


def _silence(output: Output) -> bool:
    return output.no_speech > SILENT and output.confidence < UNSURE


def _wordless(rank: tuple, output: Output, engine: Engine, decode: Decode) -> bool:
    """Whether an output is no text, or less likely to be what somebody said than to be made up.

    Doubt in the words and in the speaker add up: half sure that nobody speaks, a model has to be surer of its words.
    """
    text = decode(texts_of(output.tokens, engine.tokens))
    if not any(letter.isalnum() for letter in text):
        return True
    looping = not rank[1] and output.no_speech > SILENT / 2  # at every temperature
    return looping or output.confidence < INVENTED or output.no_speech * -output.confidence > SILENT * -UNSURE


def _timed(
    engine: Engine,
    encoded: object,
    pieces: Sequence[np.ndarray],
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[tuple[int, ...]],
) -> list[Heard]:
    texts = [texts_of(output, engine.tokens) for output in outputs]
    rows = [row for row, text in enumerate(texts) if text]
    if not rows:
        return [Heard(output) for output in outputs]
    times = engine.align(
        engine.pick(encoded, rows),
        [prompts[row] for row in rows],
        [texts[row] for row in rows],
        [len(pieces[row]) for row in rows],
    )
    found = dict(zip(rows, times, strict=True))
    return [Heard(output, found.get(row)) for row, output in enumerate(outputs)]
