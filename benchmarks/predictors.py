"""How a step that is not computed is best filled in: predictors beside each other, all on the same schedules.

Reference: all 50 steps of the model's own sampler (DDIM; flux: Euler), same seeds. For each model and count of computed
steps there are two schedules: the one that the planner's dynamic programme finds, from one recorded run, for a line in
the noise schedule, and an even one. Schedules, ratios and weights are found on other prompts and seeds than those that
are reported. Filling in happens at the scheduler, on the model's output with guidance included, which is linear.

usage: python benchmarks/predictors.py [--images 24] [--models flux dit] [--quick]

Prints tables; a whole run writes benchmarks/predictors.md and .json. Needs `pip install -e '.[demo]'`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from caching import GUIDANCE, images_of

from gearshift import zoo
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Cell, Column, Row
from gearshift.evaluate.metrics import psnr
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine_description
from gearshift.models.diffusers import denoisers
from gearshift.planner.fit import Fitting
from gearshift.planner.recording import Recording
from gearshift.planner.rehearsal import guess, surrogate_of
from gearshift.planner.step_search import FITTED_DEPTH
from gearshift.steps.bands import mixed
from gearshift.steps.memory import Weights
from gearshift.steps.predict import Copy, Predictor, Taylor
from gearshift.steps.run import Run
from gearshift.steps.times import TimestepMapping
from gearshift.zoo.data import Prompt, prompt_set

STEPS, COUNTS, BATCH, FITTED_TO = 50, (17, 12, 9), 8, 3
NOTE = """PSNR (dB, mean over images) to the fully computed run. 'planned' schedules suit a line in the noise schedule
best, by the planner's dynamic programme on one recorded run; 'even' ones compute every so many steps. The noise
schedule's coordinate is log-SNR, for flux sigma. Flux's packed tokens have no height and width, thus no bands.
"""


@dataclass
class Past:
    """What may be used to fill in a step; lists are newest first.

    Attributes:
        run: tells the position of the step and its coordinate on the noise schedule, x.
        sample: the latent before the step, as the scheduler has it.
        steps, places: positions and coordinates of the computed steps.
        outputs, samples: the model's outputs there, guidance included, and the latents that these were for.
    """

    run: Run
    sample: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    steps: list[int] = field(default_factory=list)
    places: list[float] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)

    def keep(self, output: torch.Tensor) -> None:
        """The current step was computed."""
        self.steps.insert(0, self.run.position)
        self.places.insert(0, self.run.noise_coordinate)
        self.outputs.insert(0, output)
        self.samples.insert(0, self.sample)


Fill = Callable[[Past], torch.Tensor]


class Harness:
    """A pipeline whose denoiser works on some steps only; on the others its scheduler gets what a predictor says."""

    def __init__(self, model: str) -> None:
        self.model, self.pipe = model, zoo.load(model)
        (self.denoiser,) = denoisers(self.pipe).values()
        self.scheduler: Any = self.pipe.scheduler
        vars(self.denoiser)["forward"], vars(self.scheduler)["step"] = self._forward, self._step

    def images(self, prompts: list[Prompt], computed: Iterable[int], fill: Fill, into: Any = None) -> torch.Tensor:
        """Images [n, 3, h, w] of a run that computes only these steps, perhaps recorded into something."""
        self.computed, self.fill, self.recording = frozenset(computed), fill, into
        self.run, self.answer = Run(self.scheduler), None
        self.past = Past(self.run)
        return images_of(self.model, self.pipe, prompts, STEPS)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """On steps that are filled in, the answer of before, which nobody will use."""
        if self.run.position in self.computed:
            self.answer = type(self.denoiser).forward(self.denoiser, *args, **kwargs)
        return self.answer

    def _step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> Any:
        if not self.run.located:
            self.run.start((), TimestepMapping())
        self.run.sample = self.past.sample = sample
        if self.run.position in self.computed:
            self.past.keep(model_output)
        else:
            model_output = self.fill(self.past)
        result = type(self.scheduler).step(self.scheduler, model_output, timestep, sample, **kwargs)
        if self.recording is not None:
            self.recording.note(self.run, model_output, sample, result)
        self.run.tick()
        return result


def weighted(weights: Sequence[float], sources: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([w * s for w, s in zip(weights, sources, strict=False)]).sum(0)


def extrapolated(predictor: Predictor, by_step: bool = False) -> Fill:
    """As TaylorSeer does (arXiv 2503.06923), whose coordinate is the step number, or in the noise schedule's."""

    def fill(past: Past) -> torch.Tensor:
        at, x = (past.steps, past.run.position) if by_step else (past.places, past.run.noise_coordinate)
        return weighted(predictor.weights(at[: predictor.depth], x), past.outputs)

    return fill


def slopes(past: Past) -> list[torch.Tensor]:
    """At the last two outputs e0, e1: the mean of the two secants' slopes that lead there.

    m0 = (d0 + d1) / 2 and m1 = (d1 + d2) / 2, where di = (ei - ei+1) / (xi - xi+1); of one secant where there is one.
    """
    e, x = past.outputs, past.places
    secants = [(e[i] - e[i + 1]) / (x[i] - x[i + 1]) for i in range(min(len(e) - 1, 3))]
    return [torch.stack(secants[i : i + 2]).mean(0) for i in range(min(len(secants), 2))]


def smoothed(past: Past) -> torch.Tensor:
    """e0 + m0 (x - x0), with m0 as in `slopes`: a line whose slope is averaged with the one before."""
    found = slopes(past)
    return past.outputs[0] + (past.run.noise_coordinate - past.places[0]) * found[0] if found else past.outputs[0]


def hermite(past: Past) -> torch.Tensor:
    """The cubic with e1 and slope m1 at x1, e0 and slope m0 at x0 (Hermite's; `slopes`), continued to x.

    Where only three outputs are kept, the slope at x1 is its one secant's; where fewer are, as `smoothed`.
    """
    found = slopes(past)
    if len(found) < 2:
        return smoothed(past)
    h = past.places[0] - past.places[1]
    s = (past.run.noise_coordinate - past.places[1]) / h
    weights = [3 * s**2 - 2 * s**3, 2 * s**3 - 3 * s**2 + 1, h * (s**3 - s**2), h * (s**3 - 2 * s**2 + s)]
    return weighted(weights, [*past.outputs[:2], *found])


def residual(past: Past) -> torch.Tensor:
    """Repeat the output minus the latent, and add the latent of now: TeaCache's residual (arXiv 2411.19108), outside.

    TeaCache and its kin take it of hidden states around the blocks; here it is taken around the whole denoiser.
    """
    return past.outputs[0] + past.sample - past.samples[0]


def resized(references: Sequence[Recording]) -> Fill:
    """The last output times the ratio that outputs' norms had between these steps in the references.

    The ratio from step to step, which hardly depends on the prompt, is that of MagCache (arXiv 2506.09045), where it is
    one of residuals and tells which steps to skip; from one step to another such ratios multiply.
    """
    norms = np.mean([[np.linalg.norm(output) for output in r.outputs] for r in references], axis=0)
    return lambda past: past.outputs[0] * float(norms[past.run.position] / norms[past.steps[0]])


class Alike(Fitting):
    """One weight a term, for all coefficients."""

    def note(self, run: Run, output: torch.Tensor, sample: torch.Tensor, answer: Any) -> None:
        super().note(run, output, sample, answer)
        self.shares = np.ones(1)


def weighed(past: Past, weights: Weights) -> torch.Tensor:
    """The mix of the last outputs and, with the last weight, of the latent."""
    sources: Any = [*past.outputs[: len(weights) - 1], past.sample]
    rows: Any = weights
    return weighted(rows, sources) if isinstance(rows[0], float) else mixed(sources, rows)


def fitted(harness: Harness, computed: Sequence[int], references: Sequence[Recording], kind: type[Fitting]) -> Fill:
    """Weights that the planner fits (`gearshift.planner.fit`), in one run after another beside these references."""
    runs: list[Fitting] = []

    def fit(past: Past) -> torch.Tensor:
        return weighed(past, runs[-1].fit(past.run, past.places[:FITTED_DEPTH], 1.0))

    for prompts, reference in zip(batches(), references, strict=True):
        runs.append(kind(reference=reference, sampler=surrogate_of(reference, 0.0), earlier=tuple(runs)))
        harness.images(prompts, computed, fit, runs[-1])
    return lambda past: weighed(past, runs[-1].weights[past.run.position])


def batches() -> list[list[Prompt]]:
    """What ratios and weights are fitted to; the first batch is what schedules are found on."""
    prompts = prompt_set("search", BATCH * FITTED_TO)
    return [prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH)]


def predictors(harness: Harness, computed: Sequence[int], references: Sequence[Recording]) -> dict[str, Fill]:
    """All that are compared, for one schedule."""
    found = {
        "repeat": extrapolated(Copy()),
        "line in the step number": extrapolated(Taylor(1), by_step=True),
        "line in the noise schedule": extrapolated(Taylor(1)),
        "parabola in the noise schedule": extrapolated(Taylor(2)),
        "line, slope averaged with the one before": smoothed,
        "cubic Hermite of such slopes": hermite,
        "repeat output minus latent": residual,
        "repeat, norm corrected": resized(references),
        "fitted, one weight a term": fitted(harness, computed, references, Alike),
    }
    if len(references[0].shares) > 1:
        found["fitted, by channel and band"] = fitted(harness, computed, references, Fitting)
    return found


def columns() -> list[Column]:
    heads = [f"{count} {way}" for count in COUNTS for way in ("planned", "even")]
    return [Column(head, head, "dB", ".1f", "higher") for head in heads]


def schedules(reference: Recording) -> dict[str, tuple[int, ...]]:
    """Steps to compute, by column."""
    found = {}
    for count in COUNTS:
        found[f"{count} planned"] = guess(reference, count, Taylor(1)).schedule.computed
        found[f"{count} even"] = tuple(i * STEPS // count for i in range(count))
    return found


def section(model: str, images: int) -> tuple[list[Row], dict[str, tuple[int, ...]]]:
    """Measure one model."""
    harness, prompts = Harness(model), prompt_set("report", images)
    references = [Recording() for _ in batches()]
    for batch, reference in zip(batches(), references, strict=True):
        harness.images(batch, range(STEPS), residual, reference)
    wanted = harness.images(prompts, range(STEPS), residual)
    found: dict[str, dict[str, Cell]] = {}
    chosen = schedules(references[0])
    for head, computed in chosen.items():
        for name, fill in predictors(harness, computed, references).items():
            found.setdefault(name, {})[head] = psnr(harness.images(prompts, computed, fill), wanted)
    return [Row(name, "", cells) for name, cells in found.items()], chosen


def verdict(model: str, rows: list[Row]) -> str:
    """Which predictor is best in the mean of all columns, and in how many of them."""
    table = np.array([[float(row.cells[c.key]) for c in columns()] for row in rows])  # type: ignore[arg-type]
    means = table.mean(1)
    second, first = np.argsort(means)[-2:]
    wins = int(np.sum(table.argmax(0) == first))
    best = f"best is '{rows[first].name}', with {means[first]:.1f} dB in the mean of all columns"
    ahead = f"{means[first] - means[second]:.1f} dB ahead of '{rows[second].name}'"
    return f"- {model}: {best}, {ahead}, and in {wins} of {len(columns())} columns."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--models", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--quick", action="store_true", help=f"{BATCH} images; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    images = BATCH if options.quick else options.images
    fits = f"fitted to {FITTED_TO} batches of {BATCH} of its 'search' prompts"
    shown = f"{images} images of the zoo's 'report' prompts, seeds from {prompt_set('report', 1)[0].seed}"
    about = f"{machine_description()}, diffusers {diffusers.__version__}; "
    about += f"{STEPS} steps, guidance {GUIDANCE}; {shown}; {fits}."
    pages, data, said = ["# Filling in a step\n", f"{about}\n", NOTE], {}, []
    for model in options.models:
        rows, chosen = section(model, images)
        steps = "".join(f"- {head}: {' '.join(map(str, found))}\n" for head, found in chosen.items())
        said.append(verdict(model, rows))
        pages.append(f"## {model}\n\n{to_markdown(columns(), rows)}\nComputed steps:\n\n{steps}")
        data[model] = {**json.loads(to_json(columns(), rows)), "schedules": chosen}
        print(f"{pages[-1]}\n{said[-1]}", flush=True)
    pages.append("## What is best\n\n" + "\n".join(said) + "\n")
    if options.quick or len(options.models) < len(GUIDANCE):
        return
    path = Path(__file__).with_suffix("")
    write_atomically(path.with_suffix(".md"), "\n".join(pages))
    write_atomically(path.with_suffix(".json"), json.dumps({"about": about, "verdict": said, **data}, indent=1) + "\n")


if __name__ == "__main__":
    main()
