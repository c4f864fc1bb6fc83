"""Which token may come next, so that an output is text between pairs of timestamps (Whisper, arXiv 2212.04356)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gearshift.runtimes.speech.tokens import Tokens

FIRST = 50  # ticks: text begins after one second at the latest


class Rules:
    """The rules of one batch; follows it token by token.

    Args:
        rows: outputs in the batch.
    """

    def __init__(self, tokens: Tokens, vocabulary: int, rows: int, device: torch.device) -> None:
        self.end, self.first_time = tokens.end, tokens.first_time
        self.never = _bias([*tokens.banned, tokens.first_time - 1, tokens.start], vocabulary, device)
        late = range(tokens.first_time + FIRST + 1, vocabulary)
        self.at_first = _bias([*tokens.banned_first, *range(tokens.first_time), *late], vocabulary, device)
        self.places = torch.arange(vocabulary, device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        # an output begins as if timestamps were behind it
        self.timed = self.timed_before = torch.ones(rows, dtype=torch.bool, device=device)
        self.latest = torch.full((rows,), tokens.first_time - 1, device=device)
        self.empty = True

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [rows, vocabulary] with -inf where a token must not come; float32."""
        scores = logits.float() + self.never
        if self.empty:
            return (scores + self.at_first).log_softmax(-1)
        opening = self.timed & ~self.timed_before  # one timestamp: its twin opens the next segment, or all ends
        earliest = torch.where(opening, self.latest, self.latest + 1)
        is_time = self.places >= self.first_time
        banned = is_time & (self.places < earliest[:, None])
        banned |= is_time & (self.timed & self.timed_before)[:, None]
        banned |= (self.places < self.end) & opening[:, None]
        scores = scores.masked_fill_(banned, -torch.inf).log_softmax(-1)
        any_time = scores[:, self.first_time :].logsumexp(-1) > scores[:, : self.first_time].amax(-1)
        scores[:, : self.first_time].masked_fill_(any_time[:, None], -torch.inf)
        return scores

    def take(self, token: torch.Tensor) -> None:
        """One more token of each row; int64 [rows]."""
        self.timed_before, self.timed, self.empty = self.timed, token >= self.first_time, False
        self.latest = torch.where(self.timed, token, self.latest)
        self.done = self.done | (token == self.end)


def _bias(banned: Iterable[int], vocabulary: int, device: torch.device) -> torch.Tensor:
    bias = torch.zeros(vocabulary, device=device)
    bias[[token for token in banned if token < vocabulary]] = -torch.inf
    return bias
