"""Fill in transformer blocks one by one."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import cacher_facts, interval_param, start_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait


class Fora(Algorithm):
    """Reuse each transformer block's output between computed steps (FORA, arXiv 2407.01425)."""

    facts = cacher_facts(Trait.STACKS)
    interval: int = interval_param(5)
    start_step: int = start_param()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import block
        from gearshift.steps.trigger import Every

        cache(model, context, block, Every(self.interval, self.start_step), Copy())
