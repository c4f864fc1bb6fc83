"""Fill in a U-Net's deep features."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import cacher_facts, interval_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait


class Deepcache(Algorithm):
    """Keep a U-Net's deep features for some steps and recompute only its outermost blocks (arXiv 2312.00858)."""

    facts = cacher_facts(Trait.UNET)
    interval: int = interval_param(5)

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Copy
        from gearshift.steps.site import deep_features
        from gearshift.steps.trigger import Every

        cache(model, context, deep_features, Every(self.interval), Copy())
