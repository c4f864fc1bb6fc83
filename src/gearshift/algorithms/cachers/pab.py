"""Reuse attention, the kinds that change less for longer."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import attention_param, cacher_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait
from gearshift.models.denoiser import Kind as AttentionKind

BROADCAST: dict[AttentionKind, int] = {
    "self": 1,
    "joint": 1,
    "temporal": 2,
    "cross": 3,
}  # kind -> intervals that its output serves
LOW, HIGH = 0.1, 0.8


class Pab(Algorithm):
    """Reuse attention outputs between steps in the middle of the run (Pyramid Attention Broadcast, arXiv 2408.12588).

    Temporal attention is kept for twice as long as spatial attention, cross attention for three times as long. The
    first fifth and the last tenth of the noise schedule are computed whole.
    """

    facts = cacher_facts(Trait.ATTENTION)
    interval: int = attention_param()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import Skipping, cache_at
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import attention
        from gearshift.steps.trigger import Every, Within

        def trigger(times: int) -> Within:
            return Within(Every(self.interval * times if self.interval > 1 else 1), LOW, HIGH)

        cache_at(model, context, [Skipping(attention(kind), trigger(n), Copy()) for kind, n in BROADCAST.items()])
