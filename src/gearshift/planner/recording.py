"""A recording: what the scheduler was given and answered on every step of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gearshift.core.errors import GearshiftError
from gearshift.measure.timing import clock
from gearshift.steps.bands import analysed, groups, labels, shares
from gearshift.steps.noise_schedule import is_flow

if TYPE_CHECKING:
    from gearshift.steps.run import Run

DIRECTIONS = 4096
LEAST_DIRECTIONS = 16  # of a sample's group
MOST_FEEDBACK = 2.0


@dataclass
class Recording:
    """Model outputs and samples of a run, projected onto a few random directions.

    Everything that is done with them is linear in them, with one weight for each group of coefficients
    (`bands.groups`), and random projections within a group and a sample keep lengths and angles, so that a video's
    latents take no more room than an icon's.

    Attributes:
        outputs: float64 [groups x batch x directions] for each step: the model output as the scheduler got it, guidance
            included.
        samples: float64 [groups x batch x directions]: the sample before each step, and after the last.
        shares: the part of all coefficients that each group has; outputs and samples come apart into as many.
        batch: samples that are made at once.
        x: coordinate of each step on the noise schedule.
        feedback: for each step how much of a shift of the sample comes back in the output, were the clean image that
            the denoiser sees in it to stay where it is.
        seconds: of each step, by the stopwatch of `measure.timing`.
        denoising: seconds spent in the denoiser, over all steps.
        sample: the newest sample itself.
        start: position of the run's first step on the scheduler's list.
    """

    outputs: list[np.ndarray] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    shares: np.ndarray = field(default_factory=lambda: np.ones(1))
    batch: int = 1
    x: list[float] = field(default_factory=list)
    feedback: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    denoising: float = 0.0
    sample: torch.Tensor | None = None
    start: int = 0
    _project: Callable[[torch.Tensor], np.ndarray] | None = None
    _now: Callable[[], float] = field(default_factory=clock)
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._since = self._now()

    @property
    def steps(self) -> int:
        return len(self.seconds)

    def must_have_steps(self) -> None:
        """Raise GearshiftError if no step was recorded."""
        if not self.steps:
            raise GearshiftError("Nothing can be planned: no scheduler was heard during the call in `data`.")

    def timed(self, compute: Callable[[], Any]) -> Any:
        """What `compute` answers; its time is the denoiser's."""
        start = self._now()
        answer = compute()
        self.denoising += self._now() - start
        return answer

    def note(self, run: Run, output: torch.Tensor, sample: torch.Tensor, answer: Any) -> Any:
        """Take in one call of the scheduler's `step`, what that takes is not the run's time; gives the answer back."""
        self.seconds.append(self._now() - self._since)
        if self._project is None:
            self._project, self.shares, self.batch = _projection(output), shares(output.shape), len(output)
            self.start = run.position
            self.samples.append(self._project(sample))
        self.outputs.append(self._project(output))
        self.sample = answer[0] if isinstance(answer, tuple) else answer.prev_sample
        self.samples.append(self._project(self.sample))
        self.x.append(run.noise_coordinate)
        self.feedback.append(min(feedback(run.scheduler, run.noise_coordinate), MOST_FEEDBACK))
        self._since = self._now()
        return answer

    def lengths(self, projected: np.ndarray) -> np.ndarray:
        """The length of each sample of what was projected, [batch]."""
        return np.sqrt((projected.reshape(len(self.shares), self.batch, -1) ** 2).sum((0, 2)))


class Stopwatch(Recording):
    """Takes in nothing but the time."""

    def note(self, run: Run, output: torch.Tensor, sample: torch.Tensor, answer: Any) -> Any:
        now = self._now()
        self.seconds.append(now - self._since)
        self._since = now
        return answer


def feedback(scheduler: Any, x: float) -> float:
    """Shift of the model output over the shift of the sample at coordinate `x`, the predicted clean image held fixed.

    The output is noise, velocity or the clean image itself; the sample is scaled to unit variance, or, for schedulers
    that start from large sigmas, noise on top of an unscaled image.
    """
    if scheduler is None:
        return 0.0
    if is_flow(scheduler):
        return 1 / max(x, 1e-3)
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return 0.0
    snr = math.exp(x)
    if float(getattr(scheduler, "init_noise_sigma", 1.0)) > 1.01:
        return math.sqrt(snr) * (math.sqrt(snr / (1 + snr)) if kind == "v_prediction" else 1.0)
    return math.sqrt(snr) if kind == "v_prediction" else math.sqrt(1 + snr)


def _projection(like: torch.Tensor) -> Callable[[torch.Tensor], np.ndarray]:
    """A fixed map of tensors of this shape to about DIRECTIONS numbers: random signs, summed in buckets.

    A bucket takes coefficients of one group and one sample.
    """
    count, batch, size = groups(like.shape), len(like), like[0].numel()
    group = labels(like.shape).expand(like.shape[1:]).flatten() if count > 1 else torch.zeros(size, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    signs = (torch.randint(2, (size,), generator=generator) * 2 - 1).to(like.device, torch.float32)
    shuffled = torch.randperm(size, generator=generator)
    shuffled = shuffled[group[shuffled].argsort(stable=True)]
    sizes = torch.bincount(group, minlength=count)
    width = min(int(sizes.max()), max(-(-DIRECTIONS // (count * batch)), LEAST_DIRECTIONS))
    within = torch.arange(size) - (sizes.cumsum(0) - sizes)[group[shuffled]]
    bucket = torch.empty(size, dtype=torch.long)
    bucket[shuffled] = group[shuffled] * batch * width + within % width
    buckets = (bucket + width * torch.arange(batch)[:, None]).flatten().to(like.device)

    def project(tensor: torch.Tensor) -> np.ndarray:
        flat = tensor.detach().float()
        flat = ((analysed(flat) if count > 1 else flat).flatten(1) * signs).flatten()
        sums = torch.zeros(count * batch * width, device=flat.device).index_add_(0, buckets, flat)
        return sums.cpu().double().numpy()

    return project
