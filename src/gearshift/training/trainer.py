"""One training loop: on a CPU, a GPU or many (accelerate), with validation, early stop, and going on after a stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gearshift.core.extras import need
from gearshift.core.progress import progress
from gearshift.training.checkpoint import Checkpoint
from gearshift.training.optimizers import Masters, optimizer

WARMUP = 0.05  # share of the steps in which the rate rises
PATIENCE = 3  # validations in a row that may be no better than the best
SAVE_SECONDS = 30.0  # between checkpoints


@dataclass(frozen=True)
class Settings:
    """How to train; names and defaults are those of the algorithms."""

    epochs: float = 1.0
    rate: float = 1e-4
    optimizer: str = "AdamW"
    accumulation: int = 1
    report_to: str = "none"
    validate_every: float = 0.25
    seed: int = 0
    clip: float = 1.0


@dataclass
class Curve:
    """What a run went through: (step, loss) of training, smoothed, and of validation; and whether it ended early."""

    training: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False
    resumed_at: int = 0

    @property
    def best(self) -> float:
        return min((loss for _, loss in self.validation), default=math.nan)


class Trainer:
    """Minimizes `objective(example)` over the examples.

    Args:
        objective: a module whose forward gives the loss of one example; an example is a whole batch.
        parameters: those that are trained, of the objective's modules, with the factors of their learning rates.
        examples: to train on, and `held_out` to validate on.
        checkpoint: where it goes on from, and leaves off; None: nowhere.
        tell: takes sentences for the user.
    """

    def __init__(
        self,
        settings: Settings,
        objective: nn.Module,
        parameters: Mapping[nn.Parameter, float],
        examples: Sequence[Any],
        held_out: Sequence[Any],
        tell: Callable[[str], None],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        accelerate = need("accelerate", "diffusers", "Training")
        reports = None if settings.report_to == "none" else settings.report_to
        on_cpu = not any(p.is_cuda for p in parameters)
        self.accelerator = accelerate.Accelerator(
            gradient_accumulation_steps=settings.accumulation, log_with=reports, cpu=on_cpu
        )
        if reports:
            self.accelerator.init_trackers("gearshift")
        self.settings, self.examples, self.held_out = settings, examples, held_out
        self.parameters = list(parameters)
        self.masters = Masters(self.parameters)
        self.checkpoint, self.curve = checkpoint, Curve()
        times = list(parameters.values())
        self.optimizer = optimizer(settings.optimizer, self.masters.masters, times, settings.rate, tell)
        self.objective = self.accelerator.prepare(objective) if self.accelerator.num_processes > 1 else objective
        share = self.accelerator.num_processes * settings.accumulation
        self.steps = math.ceil(settings.epochs * len(examples) / share) if examples else 0
        self._best: list[torch.Tensor] = [p.detach().clone() for p in parameters]

    def run(self, on_step: Callable[[int, int, float], None] | None = None) -> Curve:
        """Train to the end, or to where validation no longer gets better; the best parameters stay."""
        start = self._resume()
        if start == 0:
            self._validate(0)
        every = max(1, round(self.settings.validate_every * self.steps / max(self.settings.epochs, 1e-9)))
        smoothed, saved = math.nan, time.monotonic()
        for step in range(start, self.steps):
            loss = self._step(step)
            smoothed = loss if math.isnan(smoothed) else 0.9 * smoothed + 0.1 * loss
            if on_step is not None:
                on_step(step + 1, self.steps, smoothed)
            if (step + 1) % every == 0 or step + 1 == self.steps:
                self.curve.training.append((step + 1, smoothed))
                if self._validate(step + 1):
                    break
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save(step + 1)
                saved = time.monotonic()
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self._best, strict=True):
                parameter.copy_(value)
        if self.checkpoint is not None and self.accelerator.is_main_process:
            self.checkpoint.clear()
        self.accelerator.end_training()
        return self.curve

    def _step(self, step: int) -> float:
        """One update, from as many examples as are accumulated, in an order that the seed and the step decide."""
        rate = self.settings.rate * self._slope(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["times"]
        total = 0.0
        for part in range(self.settings.accumulation):
            loss = self.objective(self.examples[self._place(step, part)]) / self.settings.accumulation
            self.accelerator.backward(loss)
            total += float(loss.detach())
        self.masters.take_gradients()
        nn.utils.clip_grad_norm_(self.masters.masters, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.masters.give_back()
        if self.settings.report_to != "none":
            self.accelerator.log({"loss": total, "rate": rate}, step=step)
        return total

    def _place(self, step: int, part: int) -> int:
        """Which example this process sees: every epoch goes through all of them in another order."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        place = (step * self.settings.accumulation + part) * world + rank
        epoch, place = divmod(place, len(self.examples))
        generator = torch.Generator().manual_seed(self.settings.seed + epoch)
        return int(torch.randperm(len(self.examples), generator=generator)[place])

    def _slope(self, step: int) -> float:
        """Up over the first steps, then down to nothing as a cosine."""
        warm = max(1, round(WARMUP * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    @torch.no_grad()
    def _validate(self, step: int) -> bool:
        """Note the loss on what was held out; True when it has not become better for long enough."""
        if not self.held_out:
            self._keep_best()
            return False
        loss = sum(float(self.objective(example)) for example in self.held_out) / len(self.held_out)
        if not self.curve.validation or loss < self.curve.best:
            self._keep_best()
        self.curve.validation.append((step, loss))
        if self.settings.report_to != "none":
            self.accelerator.log({"validation": loss}, step=step)
        recent = [value for _, value in self.curve.validation[-PATIENCE:]]
        self.curve.stopped_early = len(self.curve.validation) > PATIENCE and min(recent) > self.curve.best
        return self.curve.stopped_early

    def _keep_best(self) -> None:
        self._best = [p.detach().clone() for p in self.parameters]

    def save(self, step: int) -> None:
        """Leave off here: parameters, the best ones, and the optimizer's state."""
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        tensors: dict[str, torch.Tensor] = {f"master.{i}": m for i, m in enumerate(self.masters.masters)}
        tensors |= {f"best.{i}": b for i, b in enumerate(self._best)}
        plain: dict[str, Any] = {}
        for i, master in enumerate(self.masters.masters):
            for name, value in self.optimizer.state[master].items():
                if isinstance(value, torch.Tensor):
                    tensors[f"state.{i}.{name}"] = value
                else:
                    plain[f"{i}.{name}"] = value
        curve = {"training": self.curve.training, "validation": self.curve.validation}
        self.checkpoint.write(tensors, {"step": step, "plain": plain, **curve})

    def _resume(self) -> int:
        """Go on where a run of the same name left off; the step to start with."""
        found = self.checkpoint.read() if self.checkpoint is not None else None
        if found is None:
            return 0
        tensors, facts = found
        with torch.no_grad():
            for i, master in enumerate(self.masters.masters):
                master.copy_(tensors[f"master.{i}"])
        self.masters.give_back()
        self._best = [tensors[f"best.{i}"].to(p.device) for i, p in enumerate(self.parameters)]
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "state":
                index, _, key = rest.partition(".")
                state.setdefault(int(index), {})[key] = value
        for name, value in facts["plain"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        for number, values in state.items():
            self.optimizer.state[self.masters.masters[number]] = values
        self.curve.training = [tuple(pair) for pair in facts["training"]]
        self.curve.validation = [tuple(pair) for pair in facts["validation"]]
        self.curve.resumed_at = int(facts["step"])
        return self.curve.resumed_at


def with_bar(trainer: Trainer, what: str) -> Curve:
    """Run and show how far it is."""
    with progress(f"{what} trains", trainer.steps) as bar:
        return trainer.run(lambda n, total, loss: bar.update(n, total, f"{what} trains, loss {loss:.4g}"))
