"""Whisper in torch, a batch of pieces at a time."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.batchers import Batcher, batcher_facts
from gearshift.core.context import Context
from gearshift.core.facts import Trait
from gearshift.core.param import param
from gearshift.core.record import Record
from gearshift.core.target import Replaced


class Ifw(Batcher):
    """Transcribe recordings of any length with transformers' Whisper, cut at pauses and batched.

    The model is replaced by a transcriber, which takes files, arrays and streams and answers as transformers' pipeline
    does. A recording is read in as many places side by side as there are pieces in a batch (the recipe's batch_size).
    """

    facts = batcher_facts(Trait.TORCH_FORWARD)
    weight_bits: int = param(16, choices=(16, 32), help="width of the weights")

    def lacks(self, model: Any, context: Context) -> list[str]:
        if hasattr(model, "get_encoder") and hasattr(model, "generation_config"):
            return []
        return [f"{self.name} takes a Whisper that generates text; {type(model).__name__} does not."]

    def apply(self, model: Any, context: Context) -> Any:
        from gearshift.runtimes.whisper_torch import TorchTranscriber

        recipe, record = context.recipe, context.record
        made = TorchTranscriber(
            model,
            context.seen[self.name],
            self.weight_bits,
            self._computes_in(model, context),
            recipe.batch_size,
            recipe.seed,
            Record(list(record.applied), record.on, dict(record.settings)),
        )
        context.change(Replaced(self.name))
        return made

    def _computes_in(self, model: Any, context: Context) -> Any:
        """The width of the weights, but float32 on CPUs that are slower in float16."""
        import torch

        from gearshift.algorithms.quantizers.half import slower_than_float32

        if self.weight_bits == 32:
            return torch.float32
        if model.device.type != "cpu" or slower_than_float32() <= 1:
            return torch.float16
        context.note(
            "This CPU is slower in float16 than in float32: weights are rounded to 16 bits and saved so, and computed "
            "with in float32."
        )
        return torch.float32
