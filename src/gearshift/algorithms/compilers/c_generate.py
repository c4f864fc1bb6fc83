"""Language models by CTranslate2."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.ctranslate_facts import BITS, ctranslate_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Kind
from gearshift.core.param import param


class CGenerate(Algorithm):
    """Convert a causal language model to CTranslate2, which generates tokens in C++.

    Layers are fused, weights have 8 or 16 bits. The model is replaced by an object with the same `generate`, which
    reads and writes text where the recipe has a tokenizer. A speech model becomes one that transcribes.
    """

    facts = ctranslate_facts(Kind.LANGUAGE, Kind.SPEECH)
    weight_bits: int = param(16, choices=(8, 16), help=BITS)

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.runtimes.ctranslate import conversion_problems
        from gearshift.runtimes.generator import CausalGenerator
        from gearshift.runtimes.whisper import WhisperGenerator

        return conversion_problems(self.name, model, (CausalGenerator, WhisperGenerator))

    def apply(self, model: Any, context: Context) -> Any:
        from gearshift.runtimes.ctranslate import converted_model
        from gearshift.runtimes.generator import CausalGenerator
        from gearshift.runtimes.whisper import WhisperGenerator

        return converted_model(self.name, model, self.weight_bits, context, (CausalGenerator, WhisperGenerator))
