"""ControlNets on filled-in steps: they are computed once a denoiser needs what they put out, and not before.

A pipeline calls a ControlNet and hands its output to the denoiser, whose gate decides only then whether the step is
computed. So the gate at a ControlNet answers with its last output and keeps the call; a denoiser that computes has the
call made up for first, and gets its output instead. On filled-in steps it is never made.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from gearshift.core.model import parts
from gearshift.steps.gate import Gate
from gearshift.steps.rule import OutputRule
from gearshift.steps.run import current, open_runs
from gearshift.steps.tree import mapped, tensors

if TYPE_CHECKING:
    from gearshift.steps.run import Run

MARK = "ControlNet"  # in the names of diffusers' classes


class ControlGate(Gate):
    """The gate at a ControlNet."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None or not self.on or torch.is_grad_enabled():
            return self.compute(*args, **kwargs)
        control = run.controls.get(id(self))
        if control is None:
            control = run.controls[id(self)] = Control(self)
        return control.answer(args, kwargs)


class Control:
    """What a run keeps of one ControlNet.

    Attributes:
        output: its last one.
        owed: the arguments of a call that was not made yet; None: `output` is that of the last call.
        taken_by: the gate of the denoiser that gets its output as it is, tensor by tensor; None: none is known to.
        paying: the call is being made.
    """

    def __init__(self, gate: ControlGate) -> None:
        self.gate = weakref.ref(gate)
        self.output: Any = None
        self.owed: tuple[tuple, dict[str, Any]] | None = None
        self.taken_by: weakref.ref[Gate] | None = None
        self.paying = False

    def answer(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The output of a call, or the last one where the denoiser is asked first whether it needs this."""
        denoiser = self.taken_by() if self.taken_by is not None else None
        if not self.paying and denoiser is not None and denoiser.on and isinstance(denoiser.rule, OutputRule):
            self.owed = args, kwargs
            return self.output
        gate = self.gate()
        assert gate is not None
        self.output, self.owed = gate.compute(*args, **kwargs), None
        return self.output

    def meet(self, denoiser: Gate, given: set[int]) -> None:
        """Learn whether a denoiser's call was given the output of this as it is."""
        if self.owed is None:
            whole = {id(t) for t in tensors(self.output)}
            self.taken_by = weakref.ref(denoiser) if whole and whole <= given else None

    def paid(self) -> dict[int, torch.Tensor]:
        """Make the call that is owed: tensors of its output by the numbers of those that stood for them."""
        gate, (args, kwargs) = self.gate(), self.owed or ((), {})
        before = tensors(self.output)
        if gate is None or self.owed is None:
            return {}
        self.paying = True
        try:
            gate.module(*args, **kwargs)  # through others' hooks, which bring its weights
        finally:
            self.paying = False
        return {id(old): new for old, new in zip(before, tensors(self.output), strict=True)}


def controls(model: Any) -> Iterator[Any]:
    """A pipeline's ControlNets; several that work together are one."""
    for part in parts(model).values():
        if MARK in type(part).__name__:
            yield part


def note_controls(run: Run, denoiser: Gate, args: tuple, kwargs: dict[str, Any]) -> None:
    """Learn which ControlNets' outputs a denoiser's call was given."""
    if run.controls:
        given = {id(t) for t in tensors((args, kwargs))}
        for control in run.controls.values():
            control.meet(denoiser, given)


def with_controls(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A denoiser's arguments with the outputs of calls of ControlNets that are made now, as it computes."""
    owing = [control for run in open_runs() for control in run.controls.values() if control.owed is not None]
    if not owing:
        return args, kwargs
    given = {id(t) for t in tensors((args, kwargs))}
    needed = [control for control in owing if given & {id(t) for t in tensors(control.output)}]
    new = {old: tensor for control in needed for old, tensor in control.paid().items()}
    return mapped((args, kwargs), lambda tensor: new.get(id(tensor), tensor))
