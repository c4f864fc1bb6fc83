"""Fill in a U-Net's deep features."""

from __future__ import annotations

from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.param import param


class Deepcache(Algorithm):
    """Keep a U-Net's deep features for some steps and recompute only its outermost blocks (arXiv 2312.00858)."""

    facts = Facts(
        family=Family.CACHER,
        stage=Stage.STEPS,
        occupies={Slot.STEP_SKIPPING},
        needs={Trait.DENOISES, Trait.UNET},
        kinds={Kind.DIFFUSION},
    )
    interval: int = param(2, choices=range(1, 6), help="steps between full computations; 1 turns caching off")

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import deep_features
        from gearshift.steps.trigger import Every

        cache(model, context, deep_features, Every(self.interval), Copy())
