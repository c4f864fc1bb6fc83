"""PERP for language models, with LoRA."""

from __future__ import annotations

from gearshift.algorithms.common.text_to_text import (
    LanguageRecoverer,
    batch_param,
    epochs_param,
    optimizer_param,
    report_param,
    targets_param,
)
from gearshift.algorithms.recoverers import accumulation_param, alpha_param, rank_param, rate_param


class TextToTextPerp(LanguageRecoverer):
    """Retrain norms, biases and the output head of a language model, and LoRA updates of its layers (PERP).

    Updates are merged into plain float weights, where pruned zeros stay zeros; beside quantized weights they stay, and
    these are not touched. Zimmer et al. 2023, arXiv 2312.15230.
    """

    r: int = rank_param(8)
    alpha_r_ratio: float = alpha_param(2.0)
    target_modules: str | None = targets_param()
    batch_size: int = batch_param()
    gradient_accumulation_steps: int = accumulation_param()
    num_epochs: float = epochs_param()
    learning_rate: float = rate_param(2e-4)
    report_to: str = report_param()
    optimizer: str = optimizer_param()
