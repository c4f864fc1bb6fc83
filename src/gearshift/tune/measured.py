"""One candidate: applied to a copy of the model, and measured in turns with the original, few examples before many."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

import gearshift.evaluate.measures  # noqa: F401  registers the metrics
from gearshift.applying import applied
from gearshift.core.recipe import Recipe
from gearshift.core.registry import registry
from gearshift.core.surroundings import surroundings
from gearshift.core.transaction import Transaction
from gearshift.evaluate.evaluating import ORIGINAL, readers_for
from gearshift.evaluate.evaluation import Evaluation
from gearshift.evaluate.subjects import Subject
from gearshift.evaluate.turns import evaluated
from gearshift.persist import reload
from gearshift.tune.goal import violations

SLACK = 0.1  # of a bound, that a first look at few examples may be off

Write = Callable[[dict[str, Any]], None]
CANDIDATE = "candidate"


def measured(job: dict[str, Any], write: Write) -> None:
    """Do a job: load, apply, measure stage after stage; `write` is given all that is known after each of them.

    A stage is a list of examples. One that cannot win any more is stopped after a stage; the others are also measured
    on the examples that are held out, by which nothing is chosen.
    """
    torch.set_num_threads(job["threads"])
    for cls in (getattr(importlib.import_module(module), name) for module, name in job["algorithms"]):
        registry().add(cls)
    model = reload.load(job["folder"], job["device"])
    readers = {k: v for k, v in {**readers_for(model, {}), **job["readers"]}.items() if v is not None}
    plain = reload.load(job["folder"], job["device"])
    recipe = Recipe.of(job["recipe"], data=job["calibration"], seed=job["seed"], **readers)
    with surroundings(recipe.seed), Transaction(model):
        model = applied(model, recipe, False, {})
    metrics = job["metrics"]
    judged, timed = any(not m.whole for m in metrics), any(m.whole for m in metrics)
    subjects = {
        ORIGINAL: Subject(plain, **readers_for(plain, readers), judged=judged, timed=timed),
        CANDIDATE: Subject(model, **readers_for(model, readers), judged=judged, timed=timed),
    }
    done: list[dict[str, Any]] = []
    for stage in job["stages"]:
        found = evaluated(subjects, stage, metrics, ORIGINAL)
        done.append({"figures": plain_figures(found[CANDIDATE]), "original": plain_figures(found[ORIGINAL])})
        whole = joined(done, metrics)
        last = stage is job["stages"][-1]
        stop = _hopeless(job, whole, 0.0 if last else SLACK)
        write({**whole, "stages": len(done), "stopped": stop})
        if stop:
            return
    held = evaluated(subjects, job["held_out"], metrics, ORIGINAL)
    sides = {"figures": plain_figures(held[CANDIDATE]), "original": plain_figures(held[ORIGINAL])}
    ratios = [a / b for a, b in zip(held[ORIGINAL].seconds, held[CANDIDATE].seconds, strict=True)]
    write({**whole, "stages": len(done), "stopped": "", "held_out": {**sides, "ratios": ratios}})


def plain_figures(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation's values as plain data; of items also each value."""
    found: dict[str, Any] = {}
    for name, figure in evaluation.figures.items():
        found[name] = {"mean": figure.value, "worst": figure.of("worst")}
        if figure.spread is not None:
            spread = figure.spread
            found[name] |= {"name": spread.worst_name, "values": list(spread.values), "items": len(spread.values)}
    return found


def joined(done: list[dict[str, Any]], metrics: list[Any]) -> dict[str, Any]:
    """The figures of all stages together: means weighed by their items, the worst of all, the last of whole runs."""
    joint: dict[str, Any] = {}
    better = {m.name: m.better for m in metrics}
    for side in ("figures", "original"):
        joint[side] = {}
        for name in done[0][side]:
            stages = [d[side][name] for d in done]
            if any(s["mean"] is None for s in stages) or "items" not in stages[0]:
                joint[side][name] = stages[-1]
                continue
            count = sum(s["items"] for s in stages)
            worst = (min if better[name] == "higher" else max)(stages, key=lambda s: s["worst"])
            mean = sum(s["mean"] * s["items"] for s in stages) / count
            joint[side][name] = {
                **worst,
                "mean": mean,
                "items": count,
                "values": [v for s in stages for v in s["values"]],
            }
    return joint


def _hopeless(job: dict[str, Any], found: dict[str, Any], slack: float) -> str:
    """Why a candidate is stopped after a stage; empty to go on."""
    goal = job["goal"]
    broken = violations(goal.keep, found["figures"], found["original"], slack)
    if broken:
        return "; ".join(broken)
    gain = goal.gain(*(found[side].get(goal.metric, {}).get("mean") for side in ("figures", "original")))
    if gain < job["at_least"]:
        return f"{gain:.2f} times as good as the original, where others reach {job['at_least']:.2f} or more"
    return ""
