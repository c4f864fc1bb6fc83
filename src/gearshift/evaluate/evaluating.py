"""The verb `evaluate`: checks what it was given, and measures a model beside its original."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import gearshift.evaluate.measures  # noqa: F401  registers the metrics
from gearshift.core.errors import BadValue
from gearshift.core.progress import progress
from gearshift.core.record import record_of
from gearshift.evaluate.evaluation import Evaluation
from gearshift.evaluate.examples import Example, in_batches, read_examples
from gearshift.evaluate.metric import Metric, chosen_metrics
from gearshift.evaluate.subjects import Subject
from gearshift.evaluate.turns import evaluated
from gearshift.models.describe import describe

MODEL, ORIGINAL = "optimized", "original"


def evaluate(
    model: Any,
    against: Any,
    data: Any,
    metrics: Any,
    seed: int,
    batch_size: int,
    readers: dict[str, Any],
    disabled: Callable[[Any], AbstractContextManager[Any]],
) -> Evaluation:
    """See `gearshift.evaluate`; `disabled` is the verb of that name, and `readers` a tokenizer and processor."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise BadValue(f"batch_size must be an int of 1 or more. Got {batch_size!r} instead.")
    kind = describe(model).kind
    subjects = {MODEL: Subject(model, **readers_for(model, readers))}
    record = record_of(model)
    if against is not None:
        if describe(against).kind is not kind:
            raise BadValue(
                f"Only models of one kind are compared; these are {kind.value} and {describe(against).kind.value}."
            )
        subjects[ORIGINAL] = Subject(against, **readers_for(against, {**readers_for(model, {}), **readers}))
    elif record is not None and record.applied and not any(a.irreversible_reason() for a in record.applied):
        subjects[ORIGINAL] = replace(subjects[MODEL], within=lambda: disabled(model))
    found, wanted = metrics_for(model, data, metrics, batch_size, seed, ORIGINAL in subjects)
    return _beside(subjects, found, wanted)


def metrics_for(
    model: Any, data: Any, metrics: Any, batch_size: int = 1, seed: int = 0, compares: bool = True
) -> tuple[list[Example], list[Metric]]:
    """Examples and metrics for a model, checked; see `gearshift.evaluate`."""
    kind = describe(model).kind
    found = in_batches(read_examples(data, kind, seed), batch_size)
    wanted = chosen_metrics(metrics, kind, compares)
    for one in wanted if metrics is not None else ():
        if one.truth and not any(one.truth in e.call for e in found):
            raise BadValue(f"The metric {one.name!r} needs {one.truth!r} in the examples, and none has it.")
    return found, wanted


def readers_for(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer and processor to read a model's examples with: those given, its recipe's, its own."""
    record = record_of(model)
    own = {k: vars(model)[k] for k in ("tokenizer", "processor") if hasattr(model, "__dict__") and vars(model).get(k)}
    return {**own, **(record.readers if record else {}), **{k: v for k, v in given.items() if v is not None}}


def _beside(subjects: dict[str, Subject], found: list[Example], wanted: list[Metric]) -> Evaluation:
    """Measure; the model's evaluation with the original's in it."""
    for subject in subjects.values():
        subject.judged = any(not m.whole for m in wanted)
        subject.timed = any(m.whole for m in wanted)
    original = ORIGINAL if ORIGINAL in subjects else None
    with progress("gearshift evaluates", (1 + len(found)) * len(subjects)) as bar:
        made = evaluated(subjects, found, wanted, original, bar.advance)
    return replace(made[MODEL], original=made[original]) if original else made[MODEL]
