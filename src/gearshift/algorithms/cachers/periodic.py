"""Compute the denoiser every few steps."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import VOUCHED, cacher_facts, custom_param, interval_param, mode_param, start_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait


class Periodic(Algorithm):
    """Compute the denoiser every few steps and fill in the others."""

    facts = cacher_facts()
    cache_interval: int = interval_param(7)
    start_step: int = start_param()
    cache_mode: str = mode_param()
    custom_model: bool = custom_param()

    def assumed_traits(self) -> frozenset[Trait]:
        return VOUCHED if self.custom_model else frozenset()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import by_mode
        from gearshift.steps.site import backbone
        from gearshift.steps.trigger import Every

        cache(model, context, backbone, Every(self.cache_interval, self.start_step), by_mode(self.cache_mode))
