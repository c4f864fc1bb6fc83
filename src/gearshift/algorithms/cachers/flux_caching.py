"""Fill in whole stacks of blocks."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import cacher_facts, interval_param, start_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait


class FluxCaching(Algorithm):
    """Reuse the output of the stacks of transformer blocks; what embeds the latent and projects it back still runs."""

    facts = cacher_facts(Trait.BLOCKS)
    cache_interval: int = interval_param(7)
    start_step: int = start_param()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import block_stack
        from gearshift.steps.trigger import Every

        cache(model, context, block_stack, Every(self.cache_interval, self.start_step), Copy())
