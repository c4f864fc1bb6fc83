"""Metrics of speech: word errors, against what was said and against what the original heard."""

from __future__ import annotations

from gearshift.core.extras import need
from gearshift.core.facts import Kind
from gearshift.evaluate.examples import Example
from gearshift.evaluate.metric import metric
from gearshift.evaluate.subjects import Answer

SOUND = frozenset({Kind.SPEECH})
JIWER = {"packages": ("jiwer",), "extra": "evaluate"}
Scores = list[tuple[float, float]]


@metric("wer", "%", "lower", kinds=SOUND, truth="text", floor=50.0, **JIWER)
def _wer(example: Example, answer: Answer, original: Answer | None) -> Scores:
    """Word errors of a hundred words that were said."""
    return word_errors(str(example.call["text"]), str(answer.text))


@metric("wer_original", "%", "lower", kinds=SOUND, compares=True, floor=50.0, **JIWER)
def _wer_original(example: Example, answer: Answer, original: Answer) -> Scores:
    """Word errors of a hundred words that the original heard."""
    return word_errors(str(original.text), str(answer.text))


def word_errors(said: str, heard: str) -> Scores:
    """Word error rate in percent and the number of words, of lower-case words without punctuation or apostrophes."""
    jiwer = need("jiwer", "evaluate", "The word error rate")
    truth, text = words_of(said), words_of(heard)
    if not truth:
        return [(100.0 * len(text.split()), 0.0)]
    return [(100 * float(jiwer.wer(truth, text)), float(len(truth.split())))]


def words_of(text: str) -> str:
    """A text's words in lower case, set apart by spaces; letters and digits of any script."""
    bare = text.lower().replace("'", "").replace("\u2019", "")
    return " ".join("".join(c if c.isalnum() else " " for c in bare).split())
