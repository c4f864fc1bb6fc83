"""Metrics of language models: how well a text is predicted, and how far predictions are from the original's."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from gearshift.core.errors import BadValue
from gearshift.core.facts import Kind
from gearshift.evaluate.examples import Example
from gearshift.evaluate.metric import metric
from gearshift.evaluate.subjects import Answer

TEXTS = frozenset({Kind.LANGUAGE})
Scores = list[tuple[float, float]]


@metric("perplexity", "", "lower", kinds=TEXTS, finish=math.exp, format=".3f")
def _perplexity(example: Example, answer: Answer, original: Answer | None) -> Scores:
    """Exponential of the mean negative log-likelihood of a token, given those before it."""
    logits = _logits(answer)
    assert answer.tokens is not None
    lost = F.cross_entropy(logits[:-1], answer.tokens[1:])
    return [(float(lost), len(logits) - 1)]


@metric("kl", "nats", "lower", kinds=TEXTS, compares=True, format=".2e")
def _kl(example: Example, answer: Answer, original: Answer) -> Scores:
    """KL divergence of the original's prediction of a token from the model's, per token."""
    ours, theirs = _pair(answer, original)
    each = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True)
    return [(max(float(each) / len(ours), 0.0), len(ours))]


@metric("agreement", "%", "higher", kinds=TEXTS, compares=True, format=".1f", floor=80.0)
def _agreement(example: Example, answer: Answer, original: Answer) -> Scores:
    """Tokens of which the model's likeliest one is the original's."""
    ours, theirs = _pair(answer, original)
    return [(100 * float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()), len(ours))]


def _logits(answer: Answer) -> Tensor:
    if answer.logits is None:
        raise BadValue("the model gives no probabilities of a text's tokens")
    return answer.logits


def _pair(answer: Answer, original: Answer) -> tuple[Tensor, Tensor]:
    ours, theirs = _logits(answer), _logits(original)
    words = min(ours.shape[-1], theirs.shape[-1])  # engines pad the vocabulary
    return ours[..., :words], theirs[..., :words]
