"""Finding the gear of each step by rehearsing a call."""

from __future__ import annotations

import time
from typing import Any

from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe
from gearshift.core.progress import progress_line
from gearshift.measure.in_place import Seconds
from gearshift.planner.call import call_to_rehearse
from gearshift.planner.gear_rehearsal import GearRehearsals
from gearshift.precision.controller import GearController
from gearshift.precision.gear_install import bring_back, memory_costs, time_costs
from gearshift.precision.levels import Precision


def find_gears(
    model: Any,
    context: Context,
    target: str,
    quality: float,
    controllers: list[GearController],
    times: dict[Precision, Seconds],
) -> None:
    """Find a plan by rehearsing the call in the recipe's data, follow it, and keep it.

    Args:
        target: what is to be least, 'speed' or 'memory'.
        quality: one less the relative error of the final latent that is allowed.
        times: seconds of all layers in each gear.

    Raises:
        BadRecipe: if there is no call, or more than one denoiser.
    """
    assert context.applied is not None
    name = context.applied.algorithm.name
    call = call_to_rehearse(model, context.recipe.data)
    if call is None or len(controllers) != 1:
        raise BadRecipe([f"{name} can measure a pipeline with one denoiser, called as the first item of data."])
    (controller,) = controllers
    start = time.perf_counter()
    costs = memory_costs(controller.own) if target == "memory" else time_costs(times, controller.own)
    rehearsals = GearRehearsals(controller, call, costs)
    progress_line(f"{name} rehearses the call about {rehearsals.runs} times.")
    found = rehearsals.cheapest(1 - quality)
    plans = {controller.key: found.schedule.to_json()}
    bring_back(controllers, plans)
    context.save(gears=plans)
    context.measured(
        plan=found.line,
        relative_error_of_the_latent=found.error,
        cost_over_high=found.cost,
        planning_seconds=time.perf_counter() - start,
    )
