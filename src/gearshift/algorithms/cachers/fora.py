"""Fill in transformer blocks one by one."""

from __future__ import annotations

from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.param import param


class Fora(Algorithm):
    """Reuse each transformer block's output between computed steps (FORA, arXiv 2407.01425)."""

    facts = Facts(
        family=Family.CACHER,
        stage=Stage.STEPS,
        occupies={Slot.STEP_SKIPPING},
        needs={Trait.DENOISES, Trait.STACKS},
        kinds={Kind.DIFFUSION},
    )
    interval: int = param(2, choices=range(1, 6), help="steps between computations; 1 turns caching off")
    start_step: int = param(2, choices=range(0, 11), help="steps computed before any is filled in")

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import block
        from gearshift.steps.trigger import Every

        cache(model, context, block, Every(self.interval, self.start_step), Copy())
