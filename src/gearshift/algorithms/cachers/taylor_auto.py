"""Find the steps to compute for a wanted speed, and extrapolate on the others."""

from __future__ import annotations

from typing import Any, ClassVar

from gearshift.algorithms.cachers import PLAN_FIELDS, cacher_facts, guard_param, speed_param
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.param import param


class TaylorAuto(Algorithm):
    """Find the schedule of computed steps that reaches a wanted speed with least loss; extrapolate on the others.

    The schedule is a property of the model, the sampler and the number of steps. With `data` (a list whose first item
    is a dict of the pipeline's arguments, prompts and steps among them) that call is rehearsed while optimizing: the
    schedule is found by running its rivals, and the weights of the kept outputs and of the latent are fitted for each
    step that is not computed. Without, the first call with a sampler and a number of steps is computed whole and
    recorded, and calls after it follow a schedule that is told from the recording alone.
    """

    saved_fields: ClassVar = PLAN_FIELDS
    facts = cacher_facts()
    speed_factor: float = speed_param()
    order: int = param(1, choices=range(1, 5), help="order of the expansion")
    guard: bool = guard_param()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.planner.goal import Goal
        from gearshift.planner.step_search import plan_or_wait

        plan_or_wait(model, context, Goal(self.name, fraction=self.speed_factor, order=self.order), self.guard)
