"""Fill in whole stacks of blocks."""

from __future__ import annotations

from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.param import param


class FluxCaching(Algorithm):
    """Reuse the output of the stacks of transformer blocks; what embeds the latent and projects it back still runs."""

    facts = Facts(
        family=Family.CACHER,
        stage=Stage.STEPS,
        occupies={Slot.STEP_SKIPPING},
        needs={Trait.DENOISES, Trait.BLOCKS},
        kinds={Kind.DIFFUSION},
    )
    cache_interval: int = param(2, choices=range(1, 8), help="steps between computations; 1 turns caching off")
    start_step: int = param(2, choices=range(0, 11), help="steps computed before any is filled in")

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import block_stack
        from gearshift.steps.trigger import Every

        cache(model, context, block_stack, Every(self.cache_interval, self.start_step), Copy())
