"""LoRA for diffusion pipelines."""

from __future__ import annotations

from gearshift.algorithms.common.text_to_image import (
    ImageRecoverer,
    batch_param,
    epochs_param,
    offload_param,
    optimizer_param,
    validate_param,
)
from gearshift.algorithms.recoverers import accumulation_param, alpha_param, rank_param, rate_param


class TextToImageLora(ImageRecoverer):
    """Finetune LoRA updates of a denoiser's linear layers.

    It learns to answer as the original did along the original's own runs, so that no images are needed.
    Hu et al. 2021, arXiv 2106.09685.
    """

    in_place = False
    r: int = rank_param(4)
    alpha_r_ratio: float = alpha_param(1.0)
    batch_size: int = batch_param()
    gradient_accumulation_steps: int = accumulation_param()
    num_epochs: int = epochs_param()
    validate_every_n_epoch: float = validate_param()
    learning_rate: float = rate_param(1e-4)
    use_cpu_offloading: bool = offload_param()
    optimizer: str = optimizer_param()
