"""The verb `tune`: checks what it was given, copies the model to where candidates find it, and searches."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gearshift.applying import problems
from gearshift.core.boundary import path_of, refuse_unwritable, writing
from gearshift.core.errors import BadValue
from gearshift.core.extras import need
from gearshift.core.facts import Kind
from gearshift.core.model import parts
from gearshift.core.progress import progress
from gearshift.core.recipe import Recipe
from gearshift.core.record import record_of
from gearshift.evaluate.evaluating import metrics_for, readers_for
from gearshift.evaluate.examples import Example, identity_of, in_batches
from gearshift.evaluate.timing import machine_description
from gearshift.models.describe import Description, describe
from gearshift.persist.store import save
from gearshift.tune.goal import BATCH, TuningGoal, read_goal
from gearshift.tune.jobs import Jobs
from gearshift.tune.search import Search
from gearshift.tune.space import Space, space_of
from gearshift.tune.study import Study
from gearshift.tune.tuning import Tuning

LEAST = 3  # examples: one is held out
CALIBRATION = 4  # prompts of the call that planners rehearse
STUDY = "study.db"

Apply = Callable[[Any, Recipe], Any]


def tune(
    model: Any, data: Any, keep: Any, objective: Any, budget: Any, out: Any, seed: int,
    readers: dict[str, Any], apply: Apply, **narrowed: Any,
) -> Tuning:  # fmt: skip
    """See `gearshift.tune`; `apply` is the verb `optimize`, and `narrowed` has only, without and values."""
    need("optuna", "tune", "gs.tune")
    began = time.monotonic()
    seen = describe(model)
    goal = read_goal(keep, objective, budget, seen.kind)
    found, metrics = metrics_for(model, data, goal.metrics(), BATCH if objective == "throughput" else 1, seed)
    if (record := record_of(model)) is not None and record.applied:
        raise BadValue("Tuning starts from the original: gearshift.restore takes off what was done to this model.")
    readers = readers_for(model, readers)
    space = space_of(seen.kind, lambda recipe: problems(model, recipe, **readers), **narrowed)
    if len(found) < LEAST:
        raise BadValue(f"`data` has {len(found)} examples, and tuning needs {LEAST} or more: some are held out.")
    place = None if out is None else _made(out)
    chosen_by, held_out = [e for i, e in enumerate(found) if i % 3 != 2], [e for i, e in enumerate(found) if i % 3 == 2]
    data_of = calibration(chosen_by, seen.kind)
    with tempfile.TemporaryDirectory(prefix="gearshift-tune-") as folder:
        save(model, Path(folder) / "model")
        common: dict[str, Any] = {
            "folder": Path(folder) / "model",
            "device": _device(model),
            "readers": readers,
            "metrics": metrics,
        }
        common = {**common, "calibration": data_of, "seed": seed, "threads": torch.get_num_threads()}
        study = Study(place and place / STUDY, _key(model, goal, found, seen), space, seed)
        search, ended = _searched(common, space, goal, study, chosen_by, held_out)

    def applier(target: Any, recipe: Recipe) -> Any:
        return apply(target, Recipe.of(recipe, data=data_of, **readers))

    chosen, held = (sum(len(e.names) for e in part) for part in (chosen_by, held_out))
    ranked = sorted(search.done.values(), key=lambda c: (bool(c.why), -c.gain))
    tuning = Tuning(
        type(model).__name__, goal, machine_description(), ranked, search.best, space.refused, chosen, held,
        time.monotonic() - began, ended, applier,
    )  # fmt: skip
    if place is not None:
        tuning.save(place)
    return tuning


def _searched(
    common: dict[str, Any],
    space: Space,
    goal: TuningGoal,
    study: Study,
    chosen_by: list[Example],
    held_out: list[Example],
) -> tuple[Search, str]:
    """Search until the time is over or Ctrl-C; the search, and why it ended early."""
    with Jobs(common) as jobs, progress("gearshift tunes", len(space.settings)) as bar:

        def tell(done: int, gain: float) -> None:
            bar.update(done, max(done + 1, len(space.settings)), f"gearshift tunes, best so far {gain:.2f}x")

        search = Search(jobs.run, space, goal, study, chosen_by, held_out, tell)
        try:
            search.search()
        except KeyboardInterrupt:
            return search, "It was interrupted; this is the best that was found until then."
    return search, ""


def calibration(found: list[Example], kind: Kind) -> list[Any] | None:
    """Examples as calibration data of recipes: for pipelines a call of some prompts, for language models texts."""
    if kind is Kind.DIFFUSION:
        return [dict(e.call) for e in in_batches(found, CALIBRATION)]
    if kind is Kind.LANGUAGE:
        texts = [e.call.get("input_ids", e.call.get("text")) for e in found]
        return [t for t in texts if t is not None] or None
    return None if kind is Kind.SPEECH else [e.call.get("input", dict(e.call)) for e in found]


def _made(out: Any) -> Path:
    """The folder of a search; it is made."""
    place = path_of(out, "out")
    refuse_unwritable(place / STUDY)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


def _device(model: Any) -> str | None:
    device = getattr(model, "device", None)
    return None if device is None or str(device) == "cpu" else str(device)


def _key(model: Any, goal: TuningGoal, found: list[Example], seen: Description) -> str:
    """The name of a search: the same model, examples, goal and machine continue it."""
    weights = [f"{type(model).__name__} {seen.kind.value}", *sorted(str(t.value) for t in seen.traits)]
    parts = [*weights, _size(model), str(goal.keep), goal.objective, identity_of(found), machine_description()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _size(model: Any) -> str:
    found = [
        (n, tuple(p.shape), float(p.flatten()[:8].float().sum()))
        for m in parts(model).values()
        for n, p in m.named_parameters()
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()
