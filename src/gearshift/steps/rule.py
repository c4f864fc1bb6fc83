"""Rule: what one algorithm does at its places: when to compute (a trigger) and how to fill in (a predictor)."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from gearshift.core.errors import GearshiftWarning
from gearshift.core.log import logger
from gearshift.steps.decision import Action, Decision, RunLog
from gearshift.steps.memory import Memory
from gearshift.steps.predict import Predictor
from gearshift.steps.run import Run
from gearshift.steps.tree import signature
from gearshift.steps.trigger import Trigger

if TYPE_CHECKING:
    from gearshift.core.record import Record
    from gearshift.steps.gate import Gate

SHORT = 3  # steps of a run, a short second pass for one, that leaves nothing to skip


@dataclass(eq=False)
class GateGroup:
    """Gates that share one output: a block, or a stack of blocks that is computed or filled in as one.

    On a filled-in step every gate of it answers with the stack's output, so that no block in between runs.
    """

    gates: list[Gate] = field(default_factory=list)


@dataclass(eq=False)
class Rule(ABC):
    """One algorithm's rule over all the places of its site.

    Attributes:
        name: the algorithm, and the denoiser where there are several.
        site: the site's name, for logs.
        record: the model's record, where the log of the newest run goes.
        alone: the algorithm has this one rule for a denoiser.
        predictor: makes what is filled in of what was kept.
    """

    name: str
    site: str
    trigger: Trigger
    record: Record
    alone: bool
    predictor: Predictor

    @abstractmethod
    def call(self, run: Run, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Compute or fill in what stands behind a gate."""

    def finish(self, run: Run) -> None:
        """Let the trigger learn from a run that has ended."""
        self.trigger.finish(run)

    def report(self, run: Run, logs: dict[Rule, RunLog]) -> None:
        """Say so when a run went by without a single step filled in, by this rule or another."""
        computed = {step for log in logs.values() for step in log.steps(Action.COMPUTE)}
        filled = any(log.steps(Action.REUSE) for log in logs.values())
        if len(computed) <= SHORT or filled or any(rule.trigger.expected_reason(run) for rule in logs):
            return
        *_, last = logs[self]
        warnings.warn(
            f"{self.name} reused nothing in the {len(computed)} steps of this run, "
            f"which was as slow as without it (why the last step was computed: {last.reason}).",
            GearshiftWarning,
            stacklevel=2,
        )

    def _keeps(self, run: Run) -> bool:
        """Whether outputs are kept now: without gradients, or where gradients are to flow through them."""
        return run.trained or not torch.is_grad_enabled()

    def _reason(self, run: Run) -> str | None:
        """Why a step is computed; the trigger is asked once a step, so that all places and branches go the same way."""
        held = run.held(self)
        if held.step != run.step:
            held.reason = self.trigger.reason_to_compute(run, held.state) if self._keeps(run) else "gradients are on"
            held.step, held.decisions = run.step, {}
        return held.reason

    def _planned(self, run: Run, branch: int) -> Decision:
        """The decision for a step and branch, noted in the log."""
        held = run.held(self)
        reason = held.reason if held.step == run.step else self._reason(run)
        decisions = held.decisions
        if branch not in decisions:
            action = Action.COMPUTE if reason else Action.REUSE
            decisions[branch] = Decision(run.step, self.site, branch, action, reason=reason or "")
            self._log(run).note(decisions[branch])
            logger.debug("%s: %s", self.name, decisions[branch])
        return decisions[branch]

    def _log(self, run: Run) -> RunLog:
        held = run.held(self)
        if held.log is None:
            held.log = RunLog(self.name, self.site, run.run_steps)
            key = self.name if self.alone else f"{self.name}, {self.site}"
            self.record.last_run = {**(self.record.last_run or {}), key: held.log}
        return held.log


@dataclass(eq=False)
class OutputRule(Rule):
    """Fills in a place's output from its last computed ones."""

    def call(self, run: Run, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        place = gate.place
        assert place is not None
        memory = run.memory(self, place, self.predictor.depth)
        if gate is place.gates[0]:
            if memory.step == run.step:  # a second call within one pass has no past of its own
                return gate.compute(*args, **kwargs)
            memory.step = run.step
            self._open(run, gate, memory, args, kwargs)
        if memory.filling is not None:
            return memory.filling
        output = self._compute(run, gate, args, kwargs)
        if gate is place.gates[-1]:
            self._keep_in(memory, run, output)
        return output

    def predecide(self, run: Run, places: list[GateGroup], args: tuple, kwargs: dict[str, Any]) -> list[Any] | None:
        """What to fill in at each place in one pass of the denoiser, called with these; None: all are computed."""
        memories = [run.memory(self, place, self.predictor.depth) for place in places]
        for place, memory in zip(places, memories, strict=True):
            memory.step = run.step
            self._open(run, place.gates[0], memory, args, kwargs)
        fillings = [memory.filling for memory in memories]
        return None if any(filling is None for filling in fillings) else fillings

    def keep(self, run: Run, outputs: list[tuple[GateGroup, Any]]) -> None:
        """Keep what places put out."""
        for place, output in outputs:
            self._keep_in(run.memory(self, place, self.predictor.depth), run, output)

    def _keep_in(self, memory: Memory, run: Run, output: Any) -> None:
        if self._keeps(run) and self.predictor.keeps(run.held(self).state):
            memory.keep(run.noise_coordinate, run.share(output) if run.share else output)

    def _compute(self, run: Run, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        if run.recording is None:
            return gate.compute(*args, **kwargs)
        return run.recording.timed(lambda: gate.compute(*args, **kwargs))

    def _open(self, run: Run, gate: Gate, memory: Memory, args: tuple, kwargs: dict[str, Any]) -> None:
        """Decide for a place, and predict its output if it is to be filled in."""
        memory.filling = None
        nothing = "both halves are computed" if run.share else memory.meet(signature(args, kwargs))
        planned = self._planned(run, run.branch or 0)
        if planned.action is Action.REUSE and nothing is None:
            memory.filling = self.predictor.predict(memory, run, run.held(self).state, getattr(gate, "sign", 0.0))
        elif planned.action is Action.REUSE:
            self._log(run).note(replace(planned, action=Action.COMPUTE, reason=nothing or ""))
