"""PERP for language models, in place."""

from __future__ import annotations

from gearshift.algorithms.common.text_to_text import (
    LanguageRecoverer,
    batch_param,
    epochs_param,
    optimizer_param,
    report_param,
)
from gearshift.algorithms.recoverers import accumulation_param, rate_param


class TextToTextInplacePerp(LanguageRecoverer):
    """Retrain norms, biases and the output head of a language model (PERP); nothing is added to it.

    Norms learn faster than the rate says, as they are few and of size one, and the head slower, as it soon knows the
    lessons by heart. A head that is the embedding's weight too is trained as both.

    Zimmer et al. 2023, arXiv 2312.15230.
    """

    adapted = False
    gain_rate, head_rate = 12.0, 0.2
    batch_size: int = batch_param()
    gradient_accumulation_steps: int = accumulation_param()
    num_epochs: float = epochs_param()
    learning_rate: float = rate_param(2e-4)
    report_to: str = report_param()
    optimizer: str = optimizer_param()
