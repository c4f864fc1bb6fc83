"""Guidance as a site: the unconditional pass is left out on some steps and filled in from the conditional one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from gearshift.models.denoiser import Denoiser
from gearshift.steps.decision import Action
from gearshift.steps.gate import Gate
from gearshift.steps.memory import Kept, Memory
from gearshift.steps.rule import Rule
from gearshift.steps.run import Run
from gearshift.steps.tree import children, mapped, rebuilt, tensors, with_tensors

NOT_BATCHED = ("image_rotary_emb", "txt_ids", "img_ids")  # their first dimension is tokens


@dataclass(frozen=True)
class BatchHalf:
    """One half of a doubled batch.

    Attributes:
        total: length of the doubled batch.
        last: the second half; else the first.
        listed: samples come as a list with one tensor for each.
    """

    total: int
    last: bool
    listed: bool

    @property
    def other(self) -> BatchHalf:
        return BatchHalf(self.total, not self.last, self.listed)

    def take(self, value: Any) -> Any:
        """This half of every tensor (and of every list of samples) that is as long as the doubled batch."""
        middle = self.total // 2
        if self.listed and isinstance(value, list) and len(value) == self.total:
            return value[middle:] if self.last else value[:middle]
        inside = children(value)
        if inside:
            return rebuilt(value, [self.take(v) for _, v in inside])
        return self._of(value, middle) if isinstance(value, torch.Tensor) else value

    def cut(self, value: Any) -> Any:
        """This half of every tensor of a module inside, which may have frames or places in its batch."""
        return mapped(value, lambda t: t.chunk(2)[self.last])

    def take_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {name: value if name in NOT_BATCHED else self.take(value) for name, value in kwargs.items()}

    def joined(self, this: Any, other: Any) -> Any:
        """The doubled output of which `this` is this half."""
        if isinstance(this, torch.Tensor):
            return torch.cat([other, this] if self.last else [this, other])
        if isinstance(this, list) and self.listed:
            return other + this if self.last else this + other
        pairs = zip(children(this), children(other), strict=True)
        return rebuilt(this, [self.joined(a, b) for (_, a), (_, b) in pairs])

    def _of(self, tensor: torch.Tensor, middle: int) -> torch.Tensor:
        if not tensor.ndim or len(tensor) != self.total:
            return tensor
        return tensor[middle:] if self.last else tensor[:middle]


@dataclass(eq=False)
class GuidanceRule(Rule):
    """Computes the unconditional pass when the trigger says so; else it is the conditional one plus a kept difference.

    A run without an unconditional pass is let through and leaves no log.

    What is kept, and predicted, is the difference between the two.
    """

    def call(self, run: Run, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        row = gate.row  # type: ignore[attr-defined]  # this rule stands at backbones only
        state = run.held(self).state
        if row.guidance == "batched":
            half = None if run.branch else self._half(run, row, state)
            return gate.compute(*args, **kwargs) if half is None else self._batched(run, gate, half, args, kwargs)
        if not row.cond_first or (run.branch or 0) > 1:
            return gate.compute(*args, **kwargs)
        pass_ = self._unconditional if run.branch else self._conditional
        return pass_(run, gate, args, kwargs)

    def _batched(self, run: Run, gate: Gate, half: BatchHalf, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Both passes in one call on a doubled batch, or half of it."""
        memory = self._memory(run)
        nothing = memory.meet([half.take(t).shape for t in tensors(run.sample)])
        run.guided = self._planned(run, 0).action is Action.COMPUTE or nothing is not None
        if not run.guided:
            first = gate.compute(*half.take(args), **half.take_arguments(kwargs))
            return half.joined(first, self._predicted(run, first))
        self._computed(run)
        run.share = half.cut
        output = gate.compute(*args, **kwargs)
        self._keep(run, half.take(output), half.other.take(output))
        return output

    def _conditional(self, run: Run, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The first of two calls."""
        state = run.held(self).state
        computing = self._reason(run) is not None or not self._memory(run).history
        run.guided = computing and bool(state.get("paired"))
        output = gate.compute(*args, **kwargs)
        state["first"] = Kept(run.noise_coordinate, output, copy=False)
        return output

    def _unconditional(self, run: Run, gate: Gate, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The second of two calls."""
        state, memory = run.held(self).state, self._memory(run)
        state["paired"] = True
        first = state.pop("first", None)
        usable = first is not None and not first.was_written() and memory.meet(first.shapes) is None
        if self._planned(run, 0).action is Action.REUSE and usable:
            return self._predicted(run, first.output)
        self._computed(run)
        output = gate.compute(*args, **kwargs)
        if first is not None:
            self._keep(run, first.output, output)
        return output

    def _half(self, run: Run, row: Denoiser, state: dict[str, Any]) -> BatchHalf | None:
        """The conditional half of a doubled batch; None if the batch is none.

        The halves of one are equal. So are, at first, those of two prompts with the same noise: the first step does
        not count, and the second is compared once.
        """
        listed = isinstance(run.sample, (list, tuple))
        total = len(run.sample)
        if total % 2 or run.step == 0:
            return None
        if state.get("compared") != total:
            pairs = zip(run.sample[: total // 2], run.sample[total // 2 :], strict=True)
            state.update(compared=total, doubled=all(torch.equal(a, b) for a, b in pairs))
        return BatchHalf(total, last=not row.cond_first, listed=listed) if state["doubled"] else None

    def _memory(self, run: Run) -> Memory:
        """Of the differences between the passes."""
        return run.memory(self, None, self.predictor.depth, 0)

    def _keep(self, run: Run, conditional: Any, unconditional: Any) -> None:
        if self._keeps(run):
            pairs = zip(tensors(conditional), tensors(unconditional), strict=True)
            self._memory(run).keep(run.noise_coordinate, [u - c for c, u in pairs])

    def _predicted(self, run: Run, conditional: Any) -> Any:
        memory = self._memory(run)
        difference = self.predictor.predict(memory, run, run.held(self).state)
        return with_tensors(conditional, [c + d for c, d in zip(tensors(conditional), difference, strict=True)])

    def _computed(self, run: Run) -> None:
        """Note a pass that was to be filled in and could not be."""
        planned = self._planned(run, 0)
        if planned.action is Action.REUSE:
            self._log(run).note(replace(planned, action=Action.COMPUTE, reason="no difference is kept yet"))
