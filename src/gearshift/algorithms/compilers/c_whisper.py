"""Whisper by CTranslate2."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.ctranslate_facts import BITS, ctranslate_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Kind
from gearshift.core.param import param


class CWhisper(Algorithm):
    """Convert Whisper to CTranslate2, which transcribes in C++.

    Layers are fused, weights have 8 or 16 bits. The model is replaced by an object with the same `generate`, long
    recordings, languages and timestamps included; the recipe's processor stays with it.
    """

    facts = ctranslate_facts(Kind.SPEECH)
    weight_bits: int = param(16, choices=(8, 16), help=BITS)

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.runtimes.ctranslate import conversion_problems
        from gearshift.runtimes.whisper import WhisperGenerator

        return conversion_problems(self.name, model, (WhisperGenerator,))

    def apply(self, model: Any, context: Context) -> Any:
        from gearshift.runtimes.ctranslate import converted_model
        from gearshift.runtimes.whisper import WhisperGenerator

        return converted_model(self.name, model, self.weight_bits, context, (WhisperGenerator,))
