"""What hears: a Whisper model behind five calls, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.tokens import Tokens


@dataclass(frozen=True)
class Output:
    """What the decoder said of one piece.

    Attributes:
        tokens: text and timestamps, without the prompt and the end.
        confidence: mean log-probability of a token, the end's included.
        no_speech: probability that nobody speaks.
    """

    tokens: tuple[int, ...]
    confidence: float
    no_speech: float


class Engine(Protocol):
    """Pieces of sound in, tokens out."""

    tokens: Tokens

    def encode(self, pieces: Sequence[np.ndarray]) -> Any:
        """Encoded pieces, each at most a window long, in the engine's own form."""

    def pick(self, encoded: Any, rows: Sequence[int]) -> Any:
        """Some of the encoded pieces."""

    def languages(self, encoded: Any) -> list[str | None]:
        """The likeliest language of each piece; None where the model knows one only."""

    def decode(
        self, encoded: Any, prompts: Sequence[Sequence[int]], temperature: float, seeds: Sequence[int]
    ) -> list[Output]:
        """Outputs with timestamps, greedy at temperature 0 and sampled above; prompts have equal lengths."""

    def align(
        self, encoded: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> list[np.ndarray]:
        """Seconds [n + 1] at which each of n text tokens begins, and the last one ends.

        Args:
            lengths: samples of each piece.
        """


def features(extractor: Any, pieces: Sequence[np.ndarray], window: float) -> torch.Tensor:
    """Log-mel features [pieces, bins, frames] of one window each, float32, by the model's own extractor."""
    most = round(window * RATE)
    made = extractor(list(pieces), sampling_rate=RATE, padding="max_length", max_length=most, return_tensors="pt")
    return made["input_features"].float()
