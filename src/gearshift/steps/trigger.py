"""Triggers: whether a step is computed or filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gearshift.steps.run import Run


class Trigger:
    """Decides for one step, for all places and branches of its site alike."""

    def reason_to_compute(self, run: Run, state: dict[str, Any]) -> str | None:
        """A few words why this step is computed; None if it may be filled in.

        Args:
            run: the sampling run.
            state: kept for this trigger within the run; it may write there.
        """
        raise NotImplementedError

    def expected_reason(self, run: Run | None) -> str | None:
        """Why filling in nothing was right in a run, or with None in any run; None if it was not."""
        return None

    def finish(self, run: Run) -> None:
        """Learn from a run that has ended."""


@dataclass(frozen=True)
class Every(Trigger):
    """Compute every step below `start` and every `interval`-th from there on."""

    interval: int
    start: int = 0

    def reason_to_compute(self, run: Run, state: dict[str, Any]) -> str | None:
        if run.step < self.start:
            return "before the first step that may be reused"
        return "the interval is over" if (run.step - self.start) % self.interval == 0 else None

    def expected_reason(self, run: Run | None) -> str | None:
        return "an interval of 1 computes every step" if self.interval == 1 else None


@dataclass(frozen=True)
class Within(Trigger):
    """Another trigger inside a range of the run's time (noise is 1, the sample 0); every step outside is computed."""

    inner: Trigger
    low: float
    high: float

    def reason_to_compute(self, run: Run, state: dict[str, Any]) -> str | None:
        time = run.time
        if time is None:
            return "nothing tells how far the run is"
        if not self.low < time < self.high:
            return "outside the part of the run that is reused"
        return self.inner.reason_to_compute(run, state)

    def expected_reason(self, run: Run | None) -> str | None:
        return self.inner.expected_reason(run)

    def finish(self, run: Run) -> None:
        self.inner.finish(run)


@dataclass(frozen=True)
class Unguided(Trigger):
    """Another trigger on the steps without an unconditional pass; with one, every step is computed."""

    inner: Trigger

    def reason_to_compute(self, run: Run, state: dict[str, Any]) -> str | None:
        return "the unconditional pass is computed" if run.guided else self.inner.reason_to_compute(run, state)

    def expected_reason(self, run: Run | None) -> str | None:
        return self.inner.expected_reason(run)

    def finish(self, run: Run) -> None:
        self.inner.finish(run)


@dataclass(frozen=True)
class Drift(Trigger):
    """Compute when the latent has changed by more than `threshold` since the last computed step.

    The change is the energy of the difference over the energy of the latent, per sample of the batch; the sample that
    changed most decides. It costs one number read from the device a step. At most `max_skip` steps in a row are filled
    in.
    """

    threshold: float
    max_skip: int

    def reason_to_compute(self, run: Run, state: dict[str, Any]) -> str | None:
        sample = as_one(run.sample)
        if not isinstance(sample, torch.Tensor):
            return "no latent was found among the denoiser's arguments"
        last = state.get("latent")
        if last is None or last.shape != sample.shape:
            reason: str | None = "nothing to compare with yet"
        elif state["skipped"] >= self.max_skip:
            reason = f"{self.max_skip} steps in a row were reused"
        else:
            change = relative_change(sample, last) ** 2
            near = change <= self.threshold  # False for what is not a number
            reason = None if near else f"the latent changed by {change:.3g}, past {self.threshold}"
        if reason is None:
            state["skipped"] += 1
        else:
            state.update(latent=sample.detach().clone(), skipped=0)
        return reason


def as_one(sample: Any) -> Any:
    """The latents as one tensor; some denoisers take a list with one for each image."""
    return torch.stack(list(sample)) if isinstance(sample, (list, tuple)) else sample


def relative_change(now: Any, last: Any) -> float:
    """Relative Euclidean distance of two batches of latents [n, ...], of the sample that moved most."""
    flat = now.detach().flatten(1).float(), last.detach().flatten(1).float()
    change = (flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1).clamp_min(1e-12)
    return float(change.max())
