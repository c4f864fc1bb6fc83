"""What a place keeps of its last computed outputs, within one sampling run and one branch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from gearshift.steps.bands import mixed
from gearshift.steps.decision import Decision, RunLog
from gearshift.steps.tree import alike, state_in, structure, tensors, with_tensors

Weights = Sequence[float] | Sequence[Sequence[float]]


@dataclass(slots=True)
class RuleState:
    """What a run keeps for one rule.

    Attributes:
        rule: a weak reference to it.
        state: the trigger's.
        memories: by place and branch.
        log: its decisions.
        step: the one that `reason` and `decisions` are of.
        reason: why that step is computed; None: it may be filled in.
        decisions: by branch.
    """

    rule: Callable[[], Any]
    state: dict[str, Any] = field(default_factory=dict)
    memories: dict[Hashable, Memory] = field(default_factory=dict)
    log: RunLog | None = None
    step: int = -1
    reason: str | None = None
    decisions: dict[int, Decision] = field(default_factory=dict)


class Memory:
    """The last few outputs of a place and where on the noise schedule each was computed.

    Outputs are kept without a copy. One that somebody wrote into afterwards is noticed by its version counter and
    forgotten, and from then on this place keeps copies.
    """

    def __init__(self, depth: int) -> None:
        self.history: deque[Kept] = deque(maxlen=depth)
        self.signature: list[Any] | None = None
        self.filling: Any = None
        self.step = -1
        self.copies = False
        self.refused: str | None = None

    def meet(self, signature: list[Any]) -> str | None:
        """Prepare for a call with these inputs; say why nothing can be reused, or None if something can."""
        if self.signature is None:
            self.signature = signature
        elif self.signature != signature:
            self.history.clear()
            self.signature, self.refused = signature, None
            return "the inputs' shape, type or device changed"
        if self.refused:
            return self.refused
        if any(kept.was_written() for kept in self.history):
            self.history.clear()
            self.copies = True
        return None if self.history else "nothing is kept yet"

    @property
    def at(self) -> list[float]:
        """Coordinates of the kept outputs, newest first."""
        return [kept.at for kept in reversed(self.history)]

    def like(self, latent: Any) -> bool:
        """Whether what is kept is one tensor of the latent's shape."""
        return isinstance(latent, torch.Tensor) and self.history[-1].shapes == [latent.shape]

    def fill(self, weights: Weights, latent: Any = None) -> Any:
        """The weighted sum of kept outputs, newest first; a further weight is the latent's.

        Weights with one number for each group of `bands.groups` need a single tensor of the latent's shape.
        """
        if not isinstance(weights[0], float):
            sources = [kept.tensors[0] for kept in reversed(self.history)]
            return with_tensors(self.history[-1].output, [mixed([*sources, latent], cast(Any, weights))])
        if list(weights) == [1.0] and not self.copies:
            return self.history[-1].output
        return blend(self.history, cast(Any, weights), latent)

    def keep(self, at: float, output: Any) -> None:
        """Keep a computed output and its coordinate.

        Nothing is kept of an output that holds state. Nothing is filled in where shapes, or parts that are no
        floating-point numbers, differ from those of the output before.
        """
        state = None if isinstance(output, torch.Tensor) else state_in(output)
        if state is not None:
            self.history.clear()
            self.refused = f"its output holds a {state}, which belongs to the step that made it"
            return
        kept = Kept(at, output, self.copies)
        self.refused = None
        if self.history and not kept.goes_with(self.history[-1]):
            self.refused = "its output changes with the step in more than its floating-point numbers"
            self.history.clear()
        self.history.append(kept)


class Kept:
    """One computed output."""

    def __init__(self, at: float, output: Any, copy: bool) -> None:
        self.at = at
        self.output = output
        self.tensors = tensors(output)
        if copy or torch.is_inference_mode_enabled():  # inference tensors do not count their versions
            self.tensors = [t.clone() for t in self.tensors]
            self.versions: list[int] = []
        else:
            self.versions = [t._version for t in self.tensors]

    @property
    def shapes(self) -> list[torch.Size]:
        return [t.shape for t in self.tensors]

    def goes_with(self, other: Kept) -> bool:
        """Whether two outputs can be mixed: they have equal shapes, and everything but floating-point numbers equal."""
        if isinstance(self.output, torch.Tensor) and isinstance(other.output, torch.Tensor):
            return _mix(self.tensors[0], other.tensors[0])
        if not alike(structure(self.output), structure(other.output)):
            return False
        return all(map(_mix, self.tensors, other.tensors))

    def was_written(self) -> bool:
        """Whether a tensor was changed in place since."""
        return any(t._version != v for t, v in zip(self.tensors, self.versions, strict=False))


def _mix(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors can be mixed."""
    return a.shape == b.shape and (a.is_floating_point() or a.is_complex() or torch.equal(a, b))


def blend(history: deque[Kept], weights: Sequence[float], latent: Any = None) -> Any:
    """The weighted sum of kept outputs, newest first in `weights`, in the newest output's structure and dtypes.

    Half-precision outputs are summed in float32: extrapolation weights are large and of both signs.
    """
    newest = history[-1]
    sums = []
    for i, tensor in enumerate(newest.tensors):
        if len(weights) == 1 and weights[0] == 1.0:
            sums.append(tensor.clone())
            continue
        if not (tensor.is_floating_point() or tensor.is_complex()):
            sums.append(tensor.clone())
            continue
        wide = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
        total = tensor.to(wide) * weights[0]
        others = [kept.tensors[i] for kept in list(history)[-2::-1]] + ([latent] if latent is not None else [])
        for other, weight in zip(others, weights[1:], strict=False):
            if weight:
                total.add_(other.to(wide), alpha=weight)
        sums.append(total.to(tensor.dtype))
    return with_tensors(newest.output, sums)
