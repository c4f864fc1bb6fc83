"""Compute the denoiser every few steps and extrapolate in between."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import cacher_facts, interval_param, start_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.param import param


class Taylor(Algorithm):
    """Compute the denoiser every few steps and extrapolate its past outputs in between.

    After TaylorSeer (arXiv 2503.06923), at the denoiser's output and in the variable of the noise schedule.
    """

    facts = cacher_facts()
    order: int = param(2, choices=range(1, 5), help="order of the expansion; 1 is best where intervals are long")
    cache_interval: int = interval_param(7)
    start_step: int = start_param()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps import predict
        from gearshift.steps.install import cache
        from gearshift.steps.site import backbone
        from gearshift.steps.trigger import Every

        cache(model, context, backbone, Every(self.cache_interval, self.start_step), predict.Taylor(self.order))
