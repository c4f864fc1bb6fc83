"""Skip steps while the latent hardly moves."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.cachers import VOUCHED, cacher_facts, custom_param, mode_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait
from gearshift.core.param import param


class Adaptive(Algorithm):
    """Fill in a step while the latent has changed little since the last computed one, prompt by prompt.

    The change is |x - y|^2 / |y|^2 of the sample that changed most: 0.01 is a tenth of the latent's length.
    """

    facts = cacher_facts()
    threshold: float = param(
        0.01,
        between=(0.001, 0.2),
        help="largest relative change (squared norms) of the latent since the last computed step that is skipped; "
        "larger is faster",
    )
    max_skip_steps: int = param(4, choices=range(1, 6), help="most steps skipped in a row")
    cache_mode: str = mode_param()
    custom_model: bool = custom_param()

    def assumed_traits(self) -> frozenset[Trait]:
        return VOUCHED if self.custom_model else frozenset()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import by_mode
        from gearshift.steps.site import backbone
        from gearshift.steps.trigger import Drift

        cache(model, context, backbone, Drift(self.threshold, self.max_skip_steps), by_mode(self.cache_mode))
