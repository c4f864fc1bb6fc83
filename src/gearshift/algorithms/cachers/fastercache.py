"""Reuse attention, and leave out the unconditional pass of guidance."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import attention_param, cacher_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait

ATTENTION_UNTIL, GUIDANCE_UNTIL = 0.68, 0.64  # of the noise schedule; before that all is computed
GUIDANCE_INTERVAL = 5


class Fastercache(Algorithm):
    """Forecast attention outputs, and the unconditional pass from the conditional one (FasterCache, arXiv 2410.19355).

    Both begin after the first third of the noise schedule. Of five unconditional passes one is computed; the others
    are the conditional pass plus the difference kept then. Between them attention is computed every `interval` steps,
    and otherwise is its last output and a growing part of its last change. Without guidance, or with guidance embedded
    in the denoiser, attention alone is forecast. The paper raises the difference's low frequencies early and its high
    ones late; on the models measured here that took it farther from the original, and it is left out.
    """

    facts = cacher_facts(Trait.ATTENTION)
    interval: int = attention_param()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import Skipping, cache_at
        from gearshift.steps.predict import Rising
        from gearshift.steps.site import attention
        from gearshift.steps.trigger import Every, Unguided, Within

        trigger = Unguided(Within(Every(self.interval), 0.0, ATTENTION_UNTIL))
        plans = [Skipping(attention(kind), trigger, Rising()) for kind in ("self", "joint", "temporal")]
        guidance = Within(Every(GUIDANCE_INTERVAL), 0.0, GUIDANCE_UNTIL)
        cache_at(model, context, plans, guidance)
