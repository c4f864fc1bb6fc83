"""The plan as a user holds it: prints, plots, saves, loads, resamples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gearshift.applying import follow
from gearshift.core.boundary import Misfit, path_of, reading
from gearshift.core.errors import BadValue, quoted
from gearshift.core.extras import need
from gearshift.core.files import replacing_file, write_atomically
from gearshift.core.plain import anything, fields, list_of, maybe, number, one_of, read_json, text, whole
from gearshift.measure.calls import MARGIN, UNEVEN
from gearshift.precision.levels import Precision
from gearshift.precision.schedule import PrecisionSchedule
from gearshift.steps.decision import clipped
from gearshift.steps.schedule import Schedule

FORMAT = "gearshift plan 2"
LONGEST = 100_000  # steps
LETTERS: dict[Precision | None, str] = {Precision.INT4: "4", Precision.INT8: "8"}
SHAPE = fields(
    {
        "format": one_of(FORMAT),
        "key": text(most=1000),
        "steps": whole(1, LONGEST),
        "schedule": anything,
        "asked": text(most=1000),
        "mode": one_of("taylor", "default"),
        "gears": anything,
        "memory": maybe(number(1e-6, 1e6)),
        "error": maybe(number(0)),
        "fraction": maybe(number(1e-6, 1e6)),
        "sensitivity": list_of(number(), most=LONGEST),
        "runs": whole(),
        "seconds": number(0),
    },
    {
        "start": whole(0, LONGEST),
        "wanted": maybe(number(0, 1)),
        "least": maybe(number(0, 1e6)),
        "spread": maybe(number(0)),
        "worst": maybe(number(0)),
        "samples": whole(),
    },
)


@dataclass(frozen=True, repr=False)
class Plan:
    """Which steps of a sampler are computed for one model, and how the others are made.

    Attributes:
        key: the runs that it is for: sampler, steps and noise schedule, or only the number of steps.
        steps: steps of the run.
        schedule: computed positions, and fitted weights for the others.
        asked: what was asked for, in words.
        mode: 'taylor' or 'default', as cachers name it.
        gears: the precision of each step's layers; None: all in their own.
        memory: bytes of weights that the computed steps read, over those of the whole run in the high gear; None: not
            counted.
        error: relative error of the final sample against the fully computed run, as measured; None if it was not run.
        worst: the largest error of the samples that were rehearsed, or that of the quantile that was asked for; None if
            it was not run.
        samples: how many were rehearsed, over all prompts and noises.
        fraction: measured time over the fully computed run's; None if it was not run.
        sensitivity: for each step how much of an error in its output is in the final sample.
        runs, seconds: what planning took.
        start: position of the run's first step in the scheduler's list; img2img starts later than at 0.
        wanted: the part of the original's time that was asked for; None: something else was.
        least: the part that the computed steps take if all else takes none; None: it was not run.
        spread: how far equal calls were apart while the plan was timed, over their median.
    """

    key: str
    steps: int
    schedule: Schedule
    asked: str
    mode: str = "taylor"
    gears: PrecisionSchedule | None = None
    memory: float | None = None
    error: float | None = None
    fraction: float | None = None
    sensitivity: Sequence[float] = field(default_factory=tuple)
    runs: int = 0
    seconds: float = 0.0
    start: int = 0
    wanted: float | None = None
    least: float | None = None
    spread: float | None = None
    worst: float | None = None
    samples: int = 0

    @property
    def quality(self) -> float | None:
        """Signal over error of the final sample in dB, same seed, mean; None if it was not run."""
        return _dB(self.error)

    @property
    def worst_quality(self) -> float | None:
        """The same for the worst of the samples that were rehearsed."""
        return _dB(self.worst)

    def __str__(self) -> str:
        told = [self.summary, f"  {clipped(self.line)}"]
        if self.memory is not None:
            told.append(f"  {1 / self.memory:.2f} x less memory-time: bytes of weights read over the run")
        if self.quality is not None and self.fraction is not None:
            told.append(f"  measured: {1 / self.fraction:.2f} x as fast, {self.proof} to the final latent")
            told += [f"  {doubt}" for doubt in self.doubts]
            told.append(f"  found in {self.runs} runs, {self.seconds:.0f} s")
        else:
            told.append("  not measured")
        return "\n".join(told)

    def __repr__(self) -> str:
        return f"<Plan {self.told}>"

    @property
    def proof(self) -> str:
        """Its quality, mean and worst; nothing if it was not run."""
        if self.quality is None:
            return ""
        if self.worst_quality is None:
            return f"{self.quality:.1f} dB"
        return f"{self.quality:.1f} dB (worst of {self.samples} samples {self.worst_quality:.1f} dB)"

    @property
    def summary(self) -> str:
        """The target and the steps, in one line."""
        return f"{self.asked}: {len(self.schedule.computed)} of {self.steps} steps computed"

    @property
    def told(self) -> str:
        """The target, the steps and the quality, in one line."""
        return ", ".join(filter(None, (self.summary, self.proof)))

    @property
    def share(self) -> float:
        """The part of the original's time that it is for: asked for, or else that of the steps."""
        return self.wanted if self.wanted is not None else min(len(self.schedule.computed) / self.steps, 1.0)

    @property
    def doubts(self) -> list[str]:
        """Why its measured speed is not sure, as sentences."""
        found = []
        if self.least is not None and self.fraction is not None and self.fraction < MARGIN * self.least:
            found.append(
                f"the speed that was measured cannot be, as the computed steps explain {1 / self.least:.2f}x at most: "
                "something else slowed the original's calls"
            )
        if self.spread is not None and self.spread > UNEVEN:
            found.append(
                f"timing was uneven, equal calls differed by {self.spread:.0%}: plan again while nothing else runs"
            )
        return found

    @property
    def line(self) -> str:
        """One letter for each step: '.' filled in, 4 or 8 computed in that many bits, # in the high gear."""
        chosen = set(self.schedule.computed)
        end = self.start + self.steps
        gears = self.gears.precisions if self.gears is not None else (None,) * end
        return "".join(LETTERS.get(gears[p], "#") if p in chosen else "." for p in range(self.start, end))

    def resampled(self, steps: int) -> Plan:
        """The same share of steps, as densely in each part of the run, for another number of steps.

        Fitted weights belong to the steps they were fitted for: the resampled plan extrapolates. Nothing is measured.

        Raises:
            BadValue: unless steps is an int of 1 or more.
        """
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= LONGEST:
            raise BadValue(f"A plan is resampled to 1 to {LONGEST} steps. Got {quoted(steps)} instead.")
        count = min(max(round(len(self.schedule.computed) * steps / self.steps), 2), steps)
        old = (np.array(self.schedule.computed) - self.start) * (steps - 1) / max(self.steps - 1, 1)
        places = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(old)), old)
        computed = tuple(sorted({0, *(round(float(p)) for p in places)}))
        gears = None if self.gears is None else self.gears.resampled(steps)
        new = replace(self, key=str(steps), steps=steps, start=0, schedule=Schedule(computed), gears=gears)
        new = replace(new, memory=None, error=None, fraction=None, sensitivity=(), least=None, spread=None)
        return replace(new, worst=None, samples=0)

    def apply(self, model: Any, guard: bool = True) -> Any:
        """Make a pipeline follow this plan; like `gearshift.optimize`, and as `gearshift.restore` takes off.

        Args:
            guard: compute a few more steps in runs that go another way than those seen while planning.
        """
        return follow(model, self, guard)

    def plot(self, path: str | Path) -> Path:
        """A figure of the computed steps over the sensitivity. Needs matplotlib."""
        need("matplotlib", "plot", "A figure of a plan")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 2.4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="sensitivity", title=str(self).splitlines()[0])
        for position in self.schedule.computed:
            axes.axvline(position, color="tab:blue", alpha=0.4)
        axes.plot(range(self.start, self.start + len(self.sensitivity)), self.sensitivity, color="tab:red")
        with replacing_file(path) as scratch:
            figure.savefig(scratch)
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON."""
        gears = None if self.gears is None else json.loads(self.gears.to_json())
        plain = asdict(replace(self, gears=None))
        data = {**plain, "schedule": self.schedule.as_data(), "gears": gears, "format": FORMAT}
        write_atomically(path, json.dumps(data, indent=1) + "\n")
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read what `save` wrote.

        Raises:
            BrokenFolder: if the file is not there or holds something else.
        """
        place = path_of(path, "A plan's file")
        with reading(place, "a plan saved by gearshift"):
            data = read_json(place, SHAPE, "a plan saved by gearshift")
            del data["format"]
            data["schedule"] = Schedule.of(data["schedule"])
            data["sensitivity"] = tuple(data["sensitivity"])
            if data["gears"] is not None:
                data["gears"] = PrecisionSchedule.from_json(json.dumps(data["gears"]))
            plan = Plan(**data)
            plan.must_fit()
        return plan

    def must_fit(self) -> None:
        """Check that the parts belong to each other.

        Raises:
            Misfit: if they do not.
        """
        end = self.start + self.steps
        if self.schedule.computed[0] != self.start:
            raise Misfit(f"schedule.computed must rise from {self.start}")
        if self.schedule.computed[-1] >= end or any(p >= end for p in self.schedule.weights):
            raise Misfit(f"schedule has positions beyond its {self.steps} steps")
        if self.gears is not None and self.gears.total_steps != end:
            raise Misfit(f"gears are for {self.gears.total_steps} steps, and the plan is for {end}")
        if len(self.sensitivity) not in (0, self.steps):
            raise Misfit(f"sensitivity has {len(self.sensitivity)} items for {self.steps} steps")


def _dB(error: float | None) -> float | None:
    return None if error is None else -20 * math.log10(max(error, 1e-9))
