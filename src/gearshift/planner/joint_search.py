"""Finding the steps to compute and their gears together, for `gearshift.plan`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gearshift.core.context import Context
from gearshift.core.progress import progress_line
from gearshift.core.transaction import Transaction
from gearshift.measure.calls import Turns
from gearshift.models.diffusers import denoisers
from gearshift.planner.call import call_to_rehearse
from gearshift.planner.goal import Goal, must_be_reachable
from gearshift.planner.joint_rehearsal import JointRehearsals
from gearshift.planner.plan import Plan
from gearshift.planner.step_search import find_steps, install, outside_of, proposed
from gearshift.precision import gear_install
from gearshift.precision.gears import high_gear
from gearshift.precision.levels import Precision


def costs_for(model: Any, goal: Goal, data: Any) -> Mapping[Precision, float]:
    """Cost of a step in each gear that serves the goal, over the high gear's; nothing but the high gear: no gears.

    For memory all gears serve; for speed or a quality those that were measured to save time here, at the call's shapes.
    """
    modules = list(denoisers(model).values())
    if len(modules) != 1:
        return {}
    own = high_gear(modules[0])
    if goal.memory is not None:
        return gear_install.memory_costs(own)
    return gear_install.time_costs(gear_install.measured_times(model, data), own)


def find_plan(model: Any, context: Context, goal: Goal, data: Any) -> Plan | None:
    """Find a plan by rehearsing the call in `data`, with gears where they serve the goal; None if it holds no call.

    For a speed or a quality, gears are taken only if calls with them are faster than those of the same steps without.
    """
    costs = costs_for(model, goal, data)
    if len(costs) > 1:
        with Transaction(model, context, keep=False):
            plan, beside = find_joint(model, context, goal, data, costs)
        if beside is None or earns(beside):
            return plan
        progress_line(
            f"gearshift leaves low gears out: the same steps took {beside.fraction:.2f} times as long with them, in "
            f"turns that differ by {beside.spread:.0%}."
        )
    return find_steps(model, install(model, context, goal), goal, data)


def earns(beside: Turns) -> bool:
    """Whether low gears save more than what timing them errs by."""
    return beside.fraction <= min(gear_install.SLOWER, 1 - beside.spread)


def find_joint(
    model: Any, context: Context, goal: Goal, data: Any, costs: Mapping[Precision, float]
) -> tuple[Plan | None, Turns | None]:
    """Find a joint plan by rehearsing the call in `data`; None if it holds no call.

    Returns:
        The plan, and for a speed or a quality its calls beside those of the same steps without low gears.
    """
    call = call_to_rehearse(model, data)
    if call is None:
        return None, None
    planned = install(model, context, goal)
    (controller,) = gear_install.gear_up(
        model, context, None, economical=goal.memory is not None, weight_only=goal.memory is not None or None
    )
    start = time.perf_counter()
    rehearsals = JointRehearsals(planned, controller, call, planned.base, costs, goal.mode == "taylor", goal.criterion)
    must_be_reachable(goal, rehearsals.steps, min(costs.values()))
    watch, full = rehearsals.timed({}, None)
    told = ", ".join(f"{p.name} {cost:.2f}" for p, cost in costs.items())
    progress_line(
        f"gearshift is planning steps and gears for {goal} (cost of a step: {told}); a call takes {full:.1f} s."
    )
    if goal.quality is not None:
        joined = rehearsals.cheapest(10 ** (-goal.quality / 20))
    else:
        joined = rehearsals.best(_budget(goal, watch, full))
    gears = {p: joined.gears.precisions[p] for p in joined.schedule.computed}
    turns = rehearsals.compared(gears, joined)
    read = sum(1.0 if g is controller.own else g.memory_ratio() for g in gears.values()) / rehearsals.steps
    schedule = replace(joined.schedule, timing=(turns.fraction, outside_of(watch, full)))
    plan = proposed(goal, planned, rehearsals.reference, schedule, turns, start)
    shifts = goal.memory is None and {*gears.values()} != {controller.own}
    beside = rehearsals.gain(gears, joined) if shifts else None
    return replace(plan, gears=joined.gears, memory=read, **joined.found.proof, runs=rehearsals.runs), beside


def _budget(goal: Goal, watch: Any, full: float) -> float:
    """The cost that computed steps may have, over all steps in the high gear."""
    if goal.memory is not None:
        return goal.memory
    assert goal.fraction is not None
    rest = full - watch.denoising
    return max((goal.fraction * full - rest) / watch.denoising, 0.0)
