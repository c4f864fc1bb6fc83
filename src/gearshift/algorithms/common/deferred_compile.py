"""torch.compile for an algorithm whose turn comes before others put their gates into the model."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.compile_stats import Tally
from gearshift.algorithms.compilers import around_gates
from gearshift.algorithms.compilers.torch_compile import Compiled
from gearshift.core.change import Change
from gearshift.core.model import parts

OPTIONS = {"mode": "default", "backend": "inductor", "fullgraph": False, "dynamic": None}


class CompiledLater(Change):
    """A gate's module compiled at its calls: whole while no other gates stand inside, around those that do otherwise.

    Which gates stand inside is looked at in every call, as cachers may come, go and come back.

    Attributes:
        gate: the outermost gate of what is compiled.
    """

    def __init__(self, gate: Any, tally: Tally) -> None:
        self.gate, self.tally = gate, tally
        self._whole = Compiled(gate.module, OPTIONS, tally)
        self._inside: list[Any] = []  # other algorithms' gates, when it was last decided what to compile
        self._compiled: list[Any] = []  # gates around them that have a compiled forward
        self._own: list[Any] = []  # those of these that stand only for this

    def apply(self) -> None:
        self.gate.compiled = self

    def revert(self) -> None:
        self._clear()
        self.gate.compiled = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gearshift.steps.install import gates_below

        module = self.gate.module
        inside = [gate for gate in gates_below(module) if gate not in self._own]
        if inside != self._inside:
            self._clear()
            self._decide(inside)
        if not inside:
            return self._whole(*args, **kwargs)
        behind = self.gate.wrapped_forward or type(module).forward.__get__(module)
        return behind(*args, **kwargs)

    def _decide(self, inside: list[Any]) -> None:
        from gearshift.steps.gate import Gate, gate_of

        self._inside = inside
        for module in list(around_gates(self.gate.module)) if inside else []:
            gate = gate_of(module)
            if gate is None:
                gate = Gate(module)
                gate.attach()
                self._own.append(gate)
            gate.compiled = Compiled(module, OPTIONS, self.tally)
            self._compiled.append(gate)

    def _clear(self) -> None:
        for gate in self._compiled:
            gate.compiled = None
        for gate in self._own:
            gate.detach()
        self._inside, self._compiled, self._own = [], [], []


def compile_later(model: Any, context: Any) -> None:
    """Compile the denoisers of a model, or its parts where it has none, at their first calls."""
    from gearshift.models.diffusers import denoisers
    from gearshift.steps.install import gate_at, watch_denoiser

    found = denoisers(model)
    gates: list[Any] = [watch_denoiser(model, denoiser, context) for denoiser in found.values()]
    tally = Tally.of(context)
    for gate in gates or [gate_at(part, context) for part in parts(model).values()]:
        context.change(CompiledLater(gate, tally))
