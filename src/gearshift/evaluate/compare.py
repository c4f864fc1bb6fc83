"""Several pipelines on the same prompts and seeds, taking turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from gearshift.evaluate.metrics import psnr, ssim
from gearshift.evaluate.timing import call_seconds


@dataclass
class Outcome:
    """What one pipeline did.

    Attributes:
        seconds: wall clock of each batch.
        parts: images of each batch, float [n, 3, height, width] in [0, 1].
    """

    seconds: list[float] = field(default_factory=list)
    parts: list[torch.Tensor] = field(default_factory=list)

    @property
    def images(self) -> torch.Tensor:
        """All images, [n, 3, height, width]."""
        return torch.cat(self.parts)

    def speedup_over(self, other: Outcome) -> float:
        """Median over the batches of how many times faster than another this was."""
        return median(theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True))

    def seconds_per_image(self) -> float:
        """Median wall clock of a batch over its number of images."""
        return median(s / len(p) for s, p in zip(self.seconds, self.parts, strict=True))


def figures(outcome: Outcome, original: Outcome) -> dict[str, float | None]:
    """Time and closeness of one pipeline beside the original; the original has no closeness to itself."""
    close = outcome is not original
    return {
        "seconds": outcome.seconds_per_image(),
        "speedup": outcome.speedup_over(original),
        "psnr": psnr(outcome.images, original.images) if close else None,
        "ssim": ssim(outcome.images, original.images) if close else None,
    }


def compare(
    calls: Mapping[str, Callable[[int], torch.Tensor]], batches: int, on_progress: Callable[[], None] = lambda: None
) -> dict[str, Outcome]:
    """Run every call on every batch, in an order that rotates from batch to batch.

    Args:
        calls: by name, what makes the images of the batch with a given number.
        batches: how many.
        on_progress: called after each batch of each.
    """
    outcomes = {name: Outcome() for name in calls}
    names = list(calls)
    for batch in range(batches):
        for name in names[batch % len(names) :] + names[: batch % len(names)]:
            made: list[torch.Tensor] = []
            outcomes[name].seconds.append(call_seconds(lambda: made.append(calls[name](batch))))  # noqa: B023
            outcomes[name].parts.append(made[0])
            on_progress()
    return outcomes


def text_to_image(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], batch_size: int, **call: Any
) -> Callable[[int], torch.Tensor]:
    """What makes one batch of a text-to-image pipeline's images: each prompt with a generator of its own seed."""

    def run(batch: int) -> torch.Tensor:
        part = slice(batch * batch_size, (batch + 1) * batch_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        return pipe(prompt=list(prompts[part]), generator=generators, output_type="pt", **call).images.float().cpu()

    return run
