"""LoRA for language models."""

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


class TextToTextLora(LanguageRecoverer):
    """Finetune LoRA updates of a language model's linear layers.

    Updates are merged into plain float weights, where pruned zeros stay zeros; beside quantized weights they stay.
    Hu et al. 2021, arXiv 2106.09685.
    """

    in_place = False
    r: int = rank_param(8)
    alpha_r_ratio: float = alpha_param(2.0)
    target_modules: str | None = targets_param()
    batch_size: int = batch_param()
    gradient_accumulation_steps: int = accumulation_param()
    num_epochs: float = epochs_param()
    learning_rate: float = rate_param(2e-4)
    report_to: str = report_param()
    optimizer: str = optimizer_param()
