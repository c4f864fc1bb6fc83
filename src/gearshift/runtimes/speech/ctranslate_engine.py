"""Whisper in CTranslate2, decoded a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, TypeVar

import numpy as np

from gearshift.core.extras import need
from gearshift.runtimes.conversion import EXTRA
from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.engines import Output, features
from gearshift.runtimes.speech.rules import FIRST
from gearshift.runtimes.speech.tokens import TICK, Tokens

A = TypeVar("A")
B = TypeVar("B")


class CTranslateEngine:
    """A `ctranslate2.models.Whisper` behind the calls of `Engine`.

    Args:
        model: the CTranslate2 object.
        sampled: runs a function with another such object, whose sampling begins with a seed.
        config, generation_config: transformers' own, of the model that was converted.
    """

    def __init__(
        self,
        model: Any,
        sampled: Callable[[int, Callable[[Any], list[Output]]], list[Output]],
        extractor: Any,
        config: Any,
        generation_config: Any,
    ) -> None:
        self.model, self.sampled, self.extractor = model, sampled, extractor
        self.tokens = Tokens.of(config, generation_config)

    def encode(self, pieces: Sequence[np.ndarray]) -> Any:
        if self.model.device != "cpu":
            return self.model.encode(self._sound(pieces), to_cpu=True)
        # one by one, as several at once would fall out of a core's cache
        found = self._side_by_side(lambda one: np.array(self.model.encode(self._sound([one]))), pieces)
        return _view(np.concatenate(found))

    def pick(self, encoded: Any, rows: Sequence[int]) -> Any:
        return _view(np.array(encoded)[list(rows)])

    def languages(self, encoded: Any) -> list[str | None]:
        if not self.tokens.languages:
            return [None] * encoded.shape[0]
        return [found[0][0].strip("<|>") for found in self.model.detect_language(encoded)]

    def decode(
        self, encoded: Any, prompts: Sequence[Sequence[int]], temperature: float, seeds: Sequence[int]
    ) -> list[Output]:
        if temperature == 0:
            return self._greedy(encoded, prompts)
        found = []
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            found += self._drawn(self.pick(encoded, [row]), prompt, temperature, seed)
        return found

    def align(
        self, encoded: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> list[np.ndarray]:
        frames = [min(max(round(length / RATE / TICK), 1), encoded.shape[1]) for length in lengths]
        found = []
        for row, (prompt, text, count) in enumerate(zip(prompts, texts, frames, strict=True)):
            (made,) = self.model.align(self.pick(encoded, [row]), list(prompt), [list(text)], [2 * count])
            tokens, moments = np.array(made.alignments).T
            firsts = np.flatnonzero(np.diff(tokens, prepend=-1))
            found.append(moments[firsts] * TICK)
        return found

    def _sound(self, pieces: Sequence[np.ndarray]) -> Any:
        return _view(features(self.extractor, pieces, self.tokens.window).numpy())

    def _greedy(self, encoded: Any, prompts: Sequence[Sequence[int]]) -> list[Output]:
        """As many parts of a batch side by side as the engine has workers."""
        rows = range(len(prompts))
        size = ceil(len(rows) / self.model.num_workers)
        parts = [rows[i : i + size] for i in rows[::size]]
        if len(parts) == 1:
            return self._decoded(self.model, encoded, prompts)
        found = self._side_by_side(
            lambda part: self._decoded(self.model, self.pick(encoded, part), [prompts[row] for row in part]), parts
        )
        return [output for part in found for output in part]

    def _side_by_side(self, call: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """A call for each item, in as many threads as the engine has workers; it computes without Python's lock."""
        with ThreadPoolExecutor(self.model.num_workers) as pool:
            return list(pool.map(call, items))

    def _drawn(self, encoded: Any, prompt: Sequence[int], temperature: float, seed: int) -> list[Output]:
        sampling = {"sampling_topk": 0, "sampling_temperature": temperature}
        return self.sampled(seed, lambda model: self._decoded(model, encoded, [prompt], **sampling))

    def _decoded(self, model: Any, encoded: Any, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Output]:
        made = model.generate(
            encoded,
            [list(prompt) for prompt in prompts],
            beam_size=1,
            max_length=2 * self.tokens.most,  # it takes half of it for the output
            max_initial_timestamp_index=FIRST,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=list(self.tokens.banned),
            **sampling,
        )
        return [_output(result) for result in made]


def _output(result: Any) -> Output:
    tokens = tuple(result.sequences_ids[0])  # the score is the mean over these, the end's probability included
    return Output(tokens, result.scores[0] * len(tokens) / (len(tokens) + 1), result.no_speech_prob)


def _view(array: np.ndarray) -> Any:
    package = need("ctranslate2", EXTRA, "Whisper in CTranslate2")
    return package.StorageView.from_array(np.ascontiguousarray(array))
