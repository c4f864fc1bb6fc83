"""Whisper in CTranslate2, cut where a network hears no speech, a batch of pieces at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gearshift.algorithms.batchers import Batcher, batcher_facts
from gearshift.core.context import Context
from gearshift.core.facts import Trait
from gearshift.core.param import param
from gearshift.core.target import Replaced


class WhisperS2t(Batcher):
    """Transcribe recordings of any length with Whisper in CTranslate2, pauses found by the Silero network, batched.

    Takes transformers' Whisper, or one that was converted to CTranslate2 already. The model is replaced by a
    transcriber, which takes files, arrays and streams and answers as transformers' pipeline does.
    """

    facts = batcher_facts(devices=("cpu", "cuda"), extra="speech", packages=("ctranslate2", "faster_whisper"))
    int8: bool = param(False, choices=(True, False), help="compute with int8 weights")

    def lacks(self, model: Any, context: Context) -> list[str]:
        from gearshift.runtimes.ctranslate import conversion_problems
        from gearshift.runtimes.whisper import WhisperGenerator

        if isinstance(model, WhisperGenerator):
            return []
        found = conversion_problems(self.name, model, (WhisperGenerator,))
        for algorithm in (*(a.algorithm for a in context.record.applied), *context.recipe):
            if Trait.FLOAT_WEIGHTS in type(algorithm).facts.removes:
                found.append(
                    f"{self.name} converts floating-point weights, which {algorithm.name} removes; use one of them."
                )
        return found

    def apply(self, model: Any, context: Context) -> Any:
        from gearshift.runtimes.ctranslate import converted_model
        from gearshift.runtimes.whisper import WhisperGenerator
        from gearshift.runtimes.whisper_ctranslate import CTranslateTranscriber

        recipe, bits = replace(context.recipe, processor=context.seen[self.name]), 8 if self.int8 else 16
        if isinstance(model, WhisperGenerator):
            context.change(Replaced(self.name))
            if model.weight_bits != bits:
                kept = "computed with in int8" if self.int8 else "which cannot be made wider again"
                context.note(f"The model was converted before, to {model.weight_bits}-bit weights, {kept}.")
        else:
            model = converted_model(self.name, model, bits, replace(context, recipe=recipe), (WhisperGenerator,))
        return CTranslateTranscriber(model, recipe.processor, self.int8, recipe.batch_size, recipe.seed)
