"""Training through cachers: what they fill in is to meet the original's outputs as well as what is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.facts import Family
from gearshift.core.record import Applied
from gearshift.steps.clock import Clock
from gearshift.steps.decision import Action
from gearshift.steps.install import Standing
from gearshift.steps.run import Run, open_run
from gearshift.training.diffusion import DistillationSample, SameOutput


@dataclass
class Stretch:
    """Calls of one run: a step that is computed whole and those up to the next one, with what they are filled in from.

    Attributes:
        warm: how many of the calls come before the stretch, and only leave behind what cachers keep.
    """

    training_samples: Sequence[DistillationSample]
    warm: int = 0


class ThroughCachers(nn.Module):
    """The loss of `SameOutput`, on average over the calls of a stretch, which cachers fill in as they would in a run.

    Gradients flow from what is filled in to what was kept.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.same = SameOutput(modules)

    def forward(self, stretch: Stretch) -> torch.Tensor:
        losses = []
        with _again(stretch.training_samples) as run:
            for number, sample in enumerate(stretch.training_samples):
                while run.step < sample.step:
                    run.tick()
                counts = number >= stretch.warm
                with torch.set_grad_enabled(counts and torch.is_grad_enabled()):
                    loss = self.same(sample)
                losses += [loss] * counts
        return torch.stack(losses).mean()


def stretches(training_samples: Sequence[DistillationSample], modules: Mapping[str, nn.Module]) -> list[Stretch]:
    """Cut recorded runs where the cachers that are on compute a whole step, shorter stretches first.

    Nothing comes back if the step of a call is not known.
    """
    runs: dict[Run, list[DistillationSample]] = {}
    for sample in training_samples:
        if sample.run is None:
            return []
        runs.setdefault(sample.run, []).append(sample)
    found, through = [], ThroughCachers(modules)
    for calls in runs.values():
        whole, depth = _rehearsed(calls, through.same)
        for place, first in enumerate(whole):
            start, end = whole[max(0, place - depth + 1)], [*whole, calls[-1].step + 1][place + 1]
            taken = [call for call in calls if start <= call.step < end]
            found.append(Stretch(taken, sum(call.step < first for call in taken)))
    return sorted(found, key=lambda stretch: len(stretch.training_samples) - stretch.warm)


@torch.no_grad()
def _rehearsed(calls: Sequence[DistillationSample], same: nn.Module) -> tuple[list[int], int]:
    """The steps that every rule computes, and how many computed outputs are filled in from."""
    with _again(calls) as run:
        for call in calls:
            while run.step < call.step:
                run.tick()
            same(call)
        computed = [set(log.steps(Action.COMPUTE)) for log in run.logs.values()]
        depths = [rule.predictor.depth for rule in run.logs]
    return sorted(set.intersection({call.step for call in calls}, *computed)), max(depths, default=1)


@contextmanager
def _again(calls: Sequence[DistillationSample]) -> Iterator[Run]:
    """A run along the steps of recorded calls, from the first of them on; no rule draws a conclusion from it."""
    recorded = calls[0].run
    assert recorded is not None
    run = open_run(recorded.replay(calls[0].step))
    try:
        yield run
    finally:
        run.drop()


@contextmanager
def cachers_on(model: Any, context: Context) -> Iterator[list[str]]:
    """Lay on a model's cachers, and those of the recipe that is being applied, for the length of a block: their names.

    They are applied after what is trained, so they are off while it is.
    """
    record, laid = context.record, []
    last = record.last_run
    try:
        for held in record.applied[record.on :]:
            gates = held.changes if is_cacher(held.algorithm) else _gates(held)
            laid.append(Applied(held.algorithm, gates))
            for change in gates:
                change.apply()
        for algorithm in filter(is_cacher, context.recipe):
            laid.append(Applied(algorithm))
            algorithm.apply(model, replace(context, applied=laid[-1]))
        yield [applied.algorithm.name for applied in laid if is_cacher(applied.algorithm)]
    finally:
        for applied in reversed(laid):
            for change in reversed(applied.changes):
                change.revert()
        record.last_run = last


def _gates(applied: Applied) -> list[Change]:
    """What an algorithm laid that a cacher after it may stand on."""
    return [change for change in applied.changes if isinstance(change, (Clock, Standing))]


def is_cacher(algorithm: Any) -> bool:
    """Whether an algorithm fills in what was computed on other steps."""
    return type(algorithm).facts.family is Family.CACHER
