"""Carrying out recipes and plans: what keeps one from a model, and applying its algorithms in their order."""

from __future__ import annotations

from typing import Any, TypeVar

from gearshift.core.adapters import aside_for
from gearshift.core.context import Context
from gearshift.core.devices import absent
from gearshift.core.errors import BadRecipe
from gearshift.core.extras import installed, missing
from gearshift.core.log import logger
from gearshift.core.recipe import READERS, SAVED_SETTINGS, Recipe
from gearshift.core.record import ATTRIBUTE, Applied, Record, attach, record_of
from gearshift.core.registry import registry
from gearshift.core.rules import clashes
from gearshift.core.surroundings import surroundings
from gearshift.core.transaction import Transaction

M = TypeVar("M")


def problems(model: Any, recipe: Any = None, /, **keywords: Any) -> list[str]:
    """Every reason why a recipe cannot be carried out on a model, as sentences; nothing is changed.

    Raises:
        BadRecipe: if it is no recipe to begin with.
        WrongModel: if the model is neither a pipeline nor a torch module.
    """
    from gearshift.models.describe import describe

    wanted = Recipe.of(recipe, **keywords)
    seen = describe(model)
    record = record_of(model) or Record()
    there = [(a.algorithm.name, type(a.algorithm).facts) for a in record.applied]
    found = clashes(there, [(a.name, type(a).facts) for a in wanted], ATTRIBUTE in vars(model))
    if wanted.device is not None and (why := absent(wanted.device)):
        found.append(why)
    traits = set(seen.traits) - {t for _, f in there for t in f.removes}
    context = Context(wanted, record)
    device = wanted.device.partition(":")[0] if wanted.device else seen.device
    for algorithm in wanted:
        facts = type(algorithm).facts
        traits |= algorithm.assumed_traits()
        lacks = [t.value for t in sorted(facts.needs - traits)]
        if seen.kind not in facts.kinds and not algorithm.assumed_traits():
            kinds = " or ".join(sorted(k.value for k in facts.kinds))
            found.append(f"{algorithm.name} works on {kinds}; {type(model).__name__} is {seen.kind.value}.")
        elif lacks:
            name = type(model).__name__
            why = (
                f"{name}'s weights are offloaded; remove the offloading first" if seen.offloaded else f"{name} has none"
            )
            found.append(f"{algorithm.name} needs {' and '.join(lacks)}; {why}.")
        else:
            with aside_for(algorithm, model):
                found += algorithm.check_model(model, context)
        if device not in facts.devices:
            found.append(f"{algorithm.name} runs on {', '.join(facts.devices)}, not on {device}.")
        found += [missing(p, facts.extra or "", algorithm.name) for p in facts.packages if not installed(p)]
        traits -= facts.removes
    return found


def planner_recipe(model: Any, mode: str, gears: bool = False, **settings: Any) -> Recipe:
    """The recipe of the algorithms that follow plans, checked."""
    name = next(cls.name for cls in registry() if getattr(cls, "follows_plans", False))
    shifts = [cls.name for cls in registry() if gears and getattr(cls, "follows_gears", False)]
    wanted = Recipe.of({name: {"cache_mode": mode, **settings}, **{n: {"target": "memory"} for n in shifts}})
    found = problems(model, wanted)
    if found:
        raise BadRecipe(found)
    return wanted


def applied(model: M, wanted: Recipe, keep_original: bool, saved: dict[str, Any]) -> M:
    """Apply a recipe inside of a transaction; `saved` is what its algorithms find as if they were loaded."""
    found = problems(model, wanted)
    if found:
        raise BadRecipe(found)
    if wanted.device is not None:
        model.to(wanted.device)  # type: ignore[attr-defined]
    record = record_of(model) or Record()
    record.refuse_disabled("optimized")
    record.settings.update({k: getattr(wanted, k) for k in SAVED_SETTINGS if getattr(wanted, k) is not None})
    record.readers.update({k: getattr(wanted, k) for k in READERS if getattr(wanted, k) is not None})
    context = Context(wanted, record, keep_original, loading=bool(saved), saved=saved)
    for algorithm in wanted:
        with aside_for(algorithm, model):
            algorithm.before_recipe(model, context)
    for algorithm in wanted:
        stage = type(algorithm).facts.stage
        place = sum(type(a.algorithm).facts.stage <= stage for a in record.applied)
        with record.reverted(down_to=place):
            context.applied = Applied(algorithm)
            with aside_for(algorithm, model):
                model = algorithm.apply(model, context) or model
            record.insert(place, context.applied)
        _log(context.applied)
    attach(model, record)
    return model


def _log(done: Applied) -> None:
    """Tell what was applied and what it noted."""
    logger.info("applied %s with %s", done.algorithm.name, done.algorithm.values())
    for note in done.notes:
        logger.info("%s", note)


def follow(model: M, plan: Any, guard: bool = True) -> M:
    """Make a pipeline follow a plan; `plan.apply(model)` is the same.

    Args:
        guard: compute a few more steps in runs that go another way than those seen while planning.

    Raises:
        BadRecipe: if the model has no denoiser, or a cacher already.
    """
    saved: dict[str, Any] = {"schedules": {plan.key: plan.schedule.as_data()}, "plan": plan.told}
    if plan.gears is not None:
        saved["gears"] = {plan.key: plan.gears.to_json()}
    wanted = planner_recipe(model, plan.mode, plan.gears is not None, speed_factor=plan.share, guard=guard)
    with surroundings(wanted.seed), Transaction(model):
        return applied(model, wanted, False, saved)
