"""Putting gates and rules on a model, as changes that can be taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.errors import WrongModel
from gearshift.core.model import parts
from gearshift.models.denoiser import Denoiser
from gearshift.models.diffusers import denoisers, describe_denoiser
from gearshift.steps.backbone import Backbone
from gearshift.steps.clock import Clock, is_heard, is_scheduler
from gearshift.steps.control import ControlGate, controls
from gearshift.steps.gate import Gate, gate_of
from gearshift.steps.guidance import GuidanceRule
from gearshift.steps.predict import Copy, Predictor
from gearshift.steps.rule import GateGroup, OutputRule, Rule
from gearshift.steps.trigger import Trigger

Site = Callable[[Any, Denoiser], list[list[Any]]]


@dataclass(eq=False)
class Standing(Change):
    """A gate in a module's place."""

    gate: Gate

    def apply(self) -> None:
        self.gate.attach()

    def revert(self) -> None:
        self.gate.detach()


@dataclass(eq=False)
class Ruling(Change):
    """A rule at the gates of some places; those inside of a denoiser are to be called in each of its passes."""

    rule: Rule
    places: list[GateGroup]
    denoiser: Backbone | None = None

    def apply(self) -> None:
        if self.denoiser is not None:
            self.denoiser.rules.append(self.rule)
        for place in self.places:
            for gate in place.gates:
                gate.rule, gate.place = self.rule, place

    def revert(self) -> None:
        if self.denoiser is not None:
            self.denoiser.rules.remove(self.rule)
        for place in self.places:
            for gate in place.gates:
                gate.rule = gate.place = None


@dataclass(frozen=True)
class Skipping:
    """Where, when, and how steps are filled in.

    Attributes:
        site: gives the places; one of the functions in `steps.site`.
        trigger: when a step is computed.
        predictor: how the others are filled in.
    """

    site: Site
    trigger: Trigger
    predictor: Predictor

    @property
    def words(self) -> str:
        return self.site.__name__.replace("_", " ")


def cache(model: Any, context: Context, site: Site, trigger: Trigger, predictor: Predictor) -> None:
    """Skip work across the denoising steps of every denoiser of a model, at one site."""
    cache_at(model, context, [Skipping(site, trigger, predictor)])


def cache_at(model: Any, context: Context, plans: Sequence[Skipping], guidance: Trigger | None = None) -> None:
    """Skip work across the denoising steps of every denoiser of a model.

    Args:
        plans: one for each site; those of which a denoiser has no place are left out, unless it has none of any.
        guidance: when the unconditional pass is computed; None: as often as the pipeline asks for it.
    """
    assert context.applied is not None
    name = context.applied.algorithm.name
    off = plans[0].trigger.expected_reason(None)
    if off:
        context.note(f"{name} skips nothing: {off}.")
    found = denoisers(model) or parts(model)
    for component, module in found.items():
        gate = watch_denoiser(model, module, context)
        label = name if len(found) == 1 else f"{name} ({component})"
        placed = [(p, p.site(module, describe_denoiser(module))) for p in plans]
        placed = [(plan, groups) for plan, groups in placed if groups]
        if not placed:
            raise WrongModel(f"{name} found no {' or '.join(p.words for p in plans)} in {type(module).__name__}.")
        alone = len(placed) == 1 and guidance is None
        for plan, groups in placed:
            rule: Rule = OutputRule(label, plan.words, plan.trigger, context.record, alone, plan.predictor)
            places = [GateGroup([gate_at(m, context) for m in group]) for group in groups]
            context.change(Ruling(rule, places, gate))
        if guidance is not None and off is None:
            rule = GuidanceRule(label, "unconditional pass", guidance, context.record, alone, Copy())
            context.change(Ruling(rule, [GateGroup([gate])]))


def watch_denoiser(model: Any, module: Any, context: Context) -> Backbone:
    """The gate at a denoiser, those at the ControlNets of its pipeline, and a clock on the scheduler."""
    scheduler = getattr(model, "scheduler", None)
    if is_scheduler(scheduler) and not is_heard(scheduler):
        context.change(Clock(scheduler))
    for control in controls(model):
        if gate_of(control) is None:
            context.change(Standing(ControlGate(control)))
    row = describe_denoiser(module)
    return cast(Backbone, _standing(module, lambda: Backbone(module, row), context))


@contextmanager
def watched_steps(model: Any) -> Iterator[None]:
    """Let `run.current` tell the step of each call of a model's denoisers, for the length of a block."""
    scheduler, gates = getattr(model, "scheduler", None), []
    clock = Clock(scheduler) if is_scheduler(scheduler) and not is_heard(scheduler) else None
    try:
        if clock is not None:
            clock.apply()
        for module in denoisers(model).values():
            if gate_of(module) is None:
                gates.append(Backbone(module, describe_denoiser(module)))
                gates[-1].attach()
        yield
    finally:
        for gate in gates:
            gate.detach()
        if clock is not None:
            clock.revert()


def gate_at(module: Any, context: Context) -> Gate:
    """The gate at a module."""
    return _standing(module, lambda: Gate(module), context)


def gates_below(module: Any) -> Iterable[Gate]:
    """Gates at the submodules of a module that must not be compiled."""
    for sub in module.modules():
        gate = gate_of(sub) if sub is not module else None
        if gate is not None and not gate.traced:
            yield gate


def _standing(module: Any, make: Callable[[], Gate], context: Context) -> Gate:
    gate = gate_of(module)
    if gate is None:
        gate = make()
        context.change(Standing(gate))
    return gate
