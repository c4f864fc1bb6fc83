"""Plans of steps and gears together, and of both found apart, for benchmarks/precision.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import caching
import torch

from gearshift import zoo
from gearshift.core.context import Context
from gearshift.core.recipe import Recipe
from gearshift.core.record import Applied, Record
from gearshift.planner import goal, step_search
from gearshift.planner.call import call_to_rehearse
from gearshift.planner.gear_rehearsal import GearRehearsals
from gearshift.planner.joint_rehearsal import Joined, JointRehearsals
from gearshift.precision import Precision, gear_install

STEPS = 50
BATCH = 8


def cost_of(precisions: list[Precision], own: Precision) -> float:
    """Memory-time over the high gear's."""
    return sum(1.0 if p is own else p.memory_ratio() for p in precisions) / len(precisions)


def apart(together: Together, search: GearRehearsals, budget: float) -> Joined:
    """Steps by one planner and gears by the other, each for half of the saving, and less until both keep the budget."""
    share = budget**0.5
    cached, gears = together.planned(share, False), search.best(share)
    while together.cost(found := replace(cached, gears=gears.schedule)) > budget + 0.005:
        share *= 0.98
        gears = search.best(share)
    return found


@dataclass
class Together:
    """A model with a planner's rule and gears, and the rehearsals of its joint plans."""

    name: str
    pipe: Any
    planned_rule: Any
    controller: Any
    call: Any
    prompts: list[Any]

    @staticmethod
    def of(name: str, images: int) -> Together:
        pipe, recipe = zoo.load(name), Recipe.of("auto")
        context = Context(recipe, Record(), applied=Applied(next(iter(recipe))))
        rule = step_search.install(pipe, context, goal.Goal("benchmark", fraction=1.0))
        (controller,) = gear_install.gear_up(pipe, context, None, economical=True)
        call = {**caching.arguments(name, caching.prompt_set("search", 4)), "num_inference_steps": STEPS}
        del call["generator"]
        return Together(
            name, pipe, rule, controller, call_to_rehearse(pipe, [call]), caching.prompt_set("report", images)
        )

    def planned(self, budget: float, gears: bool) -> Joined:
        costs = gear_install.memory_costs(self.controller.own) if gears else {self.controller.own: 1.0}
        return JointRehearsals(self.planned_rule, self.controller, self.call, self.planned_rule.base, costs).best(
            budget
        )

    def images(self, plan: Joined) -> torch.Tensor:
        self.planned_rule.schedules = {str(STEPS): plan.schedule}
        self.controller.schedules = {str(STEPS): plan.gears}
        batches = [self.prompts[i : i + BATCH] for i in range(0, len(self.prompts), BATCH)]
        return torch.cat([caching.images_of(self.name, self.pipe, batch, STEPS) for batch in batches])

    def cost(self, plan: Joined) -> float:
        gears = [plan.gears.precisions[p] for p in plan.schedule.computed]
        return cost_of(gears, self.controller.own) * len(gears) / STEPS

    def line(self, plan: Joined) -> str:
        letter = {Precision.INT4: "4", Precision.INT8: "8"}
        computed = set(plan.schedule.computed)
        return "".join(letter.get(p, "#") if i in computed else "." for i, p in enumerate(plan.gears.precisions))
