"""Finding the steps to compute: a plan's rule on a model, and the plan by rehearsing a call."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from gearshift.core.context import Context
from gearshift.core.progress import progress, progress_line
from gearshift.measure.calls import Turns
from gearshift.planner.call import call_to_rehearse
from gearshift.planner.goal import FEWEST, Goal, must_be_reachable
from gearshift.planner.plan import Plan
from gearshift.planner.recording import Recording
from gearshift.planner.rehearsal import (
    FITTED_DEPTH,
    MOVES,
    TRIED,
    FoundSchedule,
    Rehearsals,
    count_for,
    guess,
    sensitivity_of,
    validation_cost,
)
from gearshift.steps.install import cache
from gearshift.steps.predict import Taylor, by_mode
from gearshift.steps.schedule import Planned, Schedule
from gearshift.steps.site import backbone

SEARCHES = 7  # counts that are tried on the way to a quality, at most


def install(model: Any, context: Context, goal: Goal) -> Planned:
    """Put the rule of a plan on a model, with the schedules that were saved with it."""
    kept = {key: Schedule.of(data) for key, data in context.saved.get("schedules", {}).items()}
    context.save(schedules={key: schedule.as_data() for key, schedule in kept.items()})
    taylor = goal.mode == "taylor"
    base = Taylor(goal.order) if taylor else by_mode(goal.mode)
    depth = max(base.depth, FITTED_DEPTH) if taylor else base.depth

    assert context.applied is not None
    plan, keep = partial(_guessed, goal=goal, base=base), partial(_keep, context.applied.saved["schedules"])
    planned = Planned(Recording, plan, base, depth, kept, keep)
    cache(model, context, backbone, planned, planned)
    return planned


def _keep(saved: dict[str, Any], key: str, schedule: Schedule | None) -> None:
    """Write a schedule where a saved folder has them from; None takes it out."""
    if schedule is None:
        saved.pop(key, None)
    else:
        saved[key] = schedule.as_data()


def plan_or_wait(model: Any, context: Context, goal: Goal, guarded: bool) -> None:
    """Install the rule; plan now if the recipe's data holds a call and no plan was saved, else at the first call."""
    planned = install(model, context, goal)
    planned.guarded = guarded
    followed = context.saved.get("plan")
    if followed is not None:
        context.save(plan=followed)
        context.measured(plan=followed)
    plan = None if planned.schedules else find_steps(model, planned, goal, context.recipe.data)
    if plan is not None:
        context.measured(
            computed_steps=f"{len(plan.schedule.computed)} of {plan.steps}",
            relative_error_of_the_latent=plan.error,
            largest_relative_error=plan.worst,
            fraction_of_time=plan.fraction,
            planning_runs=plan.runs,
            planning_seconds=plan.seconds,
        )
        for doubt in plan.doubts:
            context.note(f"{doubt[0].upper()}{doubt[1:]}.")


def find_steps(model: Any, planned: Planned, goal: Goal, given: Any) -> Plan | None:
    """Find a plan by rehearsing the call in `given`; None if it holds no call.

    Args:
        given: a list whose first item is a dict of the pipeline's arguments.
    """
    call = call_to_rehearse(model, given)
    if call is None:
        return None
    start = time.perf_counter()

    def run(schedule: Schedule | None, recording: Any, seed: int) -> None:
        with planned.rehearsing(schedule, recording):
            call(seed)

    reference = Recording()
    run(None, reference, 0)
    reference.must_have_steps()
    must_be_reachable(goal, reference.steps)
    rehearsals = Rehearsals(reference, run, planned.base, goal.mode == "taylor", goal.criterion)
    watch, full = rehearsals.timed(None)  # the first call of a pipeline is slower than those that follow
    found = _searched(goal, rehearsals, watch, full)
    turns = rehearsals.compared(found.schedule)
    schedule = replace(found.schedule, timing=(turns.fraction, outside_of(watch, full)))
    plan = proposed(goal, planned, reference, schedule, turns, start)
    planned.learn(plan.key, plan.schedule)
    return replace(plan, **found.proof, runs=rehearsals.done + 1)


def outside_of(watch: Recording, full: float) -> float:
    """The part of a call that is not in its sampling loop.

    Args:
        full: seconds of the call.
    """
    return min(max(1 - sum(watch.seconds) / max(full, 1e-9), 0.0), 0.99)


def proposed(
    goal: Goal, planned: Planned, reference: Recording, schedule: Schedule, turns: Turns, since: float
) -> Plan:
    """A plan that was found by rehearsing since this moment, without what its proof told."""
    end = reference.start + reference.steps
    return Plan(
        key=planned.key,
        steps=reference.steps,
        schedule=schedule if planned.reach <= end else replace(schedule, end=end),
        asked=str(goal),
        mode=goal.mode,
        fraction=turns.fraction,
        sensitivity=sensitivity_of(reference),
        seconds=time.perf_counter() - since,
        start=reference.start,
        wanted=goal.fraction,
        least=turns.least,
        spread=turns.spread,
    )


def _guessed(recording: Recording, goal: Goal, base: Any) -> Schedule:
    """The schedule for a call that was recorded as it came."""
    assert goal.fraction is not None
    found = guess(recording, count_for(recording, goal.fraction), base)
    progress_line(
        f"{goal.named} will compute {len(found.schedule.computed)} of {recording.steps} steps in calls like this one; "
        "with `data` it could rehearse a call and fit the rest."
    )
    return found.schedule


def _searched(goal: Goal, rehearsals: Rehearsals, watch: Recording, full: float) -> FoundSchedule:
    """The best schedule for the goal, with one line that says what it costs and a bar."""
    steps = watch.steps
    with progress(f"{goal.named} rehearses") as bar:
        rehearsals.on_progress = bar.update
        if goal.fraction is not None:
            count = _affordable(goal.fraction, rehearsals, watch, full)
            part = count / steps
            cost = full * ((len(TRIED) + MOVES) * part + validation_cost(part))
            progress_line(f"{goal.named} is planning {count} of {steps} steps, which takes about {cost:.0f} s.")
        else:
            cost = full * ((SEARCHES * len(TRIED) + MOVES) / 2 + validation_cost(0.5))
            progress_line(
                f"{goal.named} is looking for the fewest steps at {goal}, which takes up to about {cost:.0f} s."
            )
            count = _fewest(goal, rehearsals)
        return rehearsals.best(count)


def _affordable(fraction: float, rehearsals: Rehearsals, watch: Recording, full: float) -> int:
    """The number of steps for a fraction of the whole call's time: calls of two numbers of steps, in turns, tell."""
    outside = full - sum(watch.seconds)
    count = count_for(watch, fraction, outside)
    if count == watch.steps:
        return count
    turns = rehearsals.compared(rehearsals.nearest(count, 0).schedule)
    whole, part = median(turns.full), median(turns.planned)
    step = max((whole - part) / (watch.steps - count), 1e-9)  # what computing takes longer than filling in
    return min(max(round(count + (fraction * whole - part) / step), FEWEST), watch.steps)


def _fewest(goal: Goal, rehearsals: Rehearsals) -> int:
    """The least number of steps whose solved schedule keeps the quality, by bisection."""
    assert goal.quality is not None
    allowed = 10 ** (-goal.quality / 20)
    low, high = FEWEST, rehearsals.reference.steps
    while low < high:
        middle = (low + high) // 2
        if rehearsals.nearest(middle, 0).error <= allowed:
            high = middle
        else:
            low = middle + 1
    return high
