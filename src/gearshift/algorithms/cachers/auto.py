"""Find the steps to compute for a wanted speed."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.cachers import (
    PLAN_FIELDS,
    VOUCHED,
    cacher_facts,
    custom_param,
    guard_param,
    mode_param,
    speed_param,
)
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Trait
from gearshift.core.param import param


class Auto(Algorithm):
    """Find the schedule of computed and filled-in steps that reaches a wanted speed with least loss.

    With `data` (a list whose first item is a dict of the pipeline's arguments) that call is rehearsed while optimizing;
    without, the first call is computed whole and recorded, and calls after it follow the schedule that it gives.
    """

    follows_plans: ClassVar[bool] = True
    saved_fields: ClassVar = PLAN_FIELDS
    facts = cacher_facts()
    speed_factor: float = speed_param()
    cache_mode: str = mode_param()
    objective: str = param(
        "fidelity",
        choices=("fidelity", "quality"),
        help="stay close to the uncached output ('fidelity'), or have its statistics ('quality'; needs `data`)",
    )
    custom_model: bool = custom_param()
    guard: bool = guard_param()

    def assumed_traits(self) -> frozenset[Trait]:
        return VOUCHED if self.custom_model else frozenset()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.planner.criterion import LATENT, Criterion
        from gearshift.planner.goal import Goal
        from gearshift.planner.quality import unlike
        from gearshift.planner.step_search import plan_or_wait

        criterion = Criterion(unlike) if self.objective == "quality" else LATENT
        plan_or_wait(
            model,
            context,
            Goal(self.name, fraction=self.speed_factor, mode=self.cache_mode, criterion=criterion),
            self.guard,
        )
