"""How a schedule is shown, in a terminal and as a figure, and how it is written as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit
from gearshift.core.errors import GearshiftError, told
from gearshift.core.extras import need
from gearshift.core.files import replacing_file
from gearshift.core.plain import fields, list_of, number, one_of, parse_json, text, whole
from gearshift.precision.errors import ScheduleError
from gearshift.precision.levels import Precision
from gearshift.precision.transitions import PrecisionTransition

if TYPE_CHECKING:
    from gearshift.precision.schedule import PrecisionSchedule

FORMAT = "gearshift precision schedule 1"
LONGEST = 100_000  # steps
LABEL = one_of(*(p.value for p in Precision))
SHAPE = fields(
    {
        "format": one_of(FORMAT),
        "name": text(most=1000),
        "total_steps": whole(1, LONGEST),
        "precisions": list_of(LABEL, least=1, most=LONGEST),
        "changes": list_of(
            fields(
                {
                    "from": LABEL,
                    "to": LABEL,
                    "start": whole(0, LONGEST),
                    "end": whole(0, LONGEST),
                    "strategy": text(r"[a-z_]+(\([0-9]{1,5}\))?", "a strategy", most=40),
                    "blend": list_of(number(0, 1), least=1, most=LONGEST),
                }
            ),
            most=LONGEST,
        ),
    }
)
_MARKS = {
    Precision.INT4: "4",
    Precision.INT8: "8",
    Precision.FP8: "f",
    Precision.BF16: "b",
    Precision.FP16: "h",
    Precision.FP32: "s",
}


def format_timeline(schedule: PrecisionSchedule) -> str:
    """One mark per step ('/' where it blends), then a row for each run of steps at one precision."""
    blends = {s.step for s in schedule.steps if s.blend_factor < 1}
    marks = [_MARKS[p] for p in schedule.precisions]
    line = "".join("/" if i in blends else mark for i, mark in enumerate(marks))
    told = [
        f"{schedule.name}: {schedule.total_steps} steps, weights {schedule.avg_memory_ratio:.0%} of FP16 "
        f"(peak {schedule.peak_memory_ratio:.0%}), nominal {schedule.estimated_speedup:.2f}x, "
        f"expected quality {schedule.avg_quality_factor:.3f}",
        *("  " + line[i : i + 100] for i in range(0, len(line), 100)),
    ]
    for start, end, p in schedule.segments:
        steps = f"{start}" if end == start + 1 else f"{start}-{end - 1}"
        told.append(
            f"  {_MARKS[p]}  {p.name:<4}  steps {steps:<9} weights {p.memory_ratio():>4.0%}  "
            f"nominal {p.nominal_speedup:g}x"
        )
    if blends:
        told.append(f"  /  blending with the precision before, on {len(blends)} steps")
    return "\n".join(told)


def plot(schedule: PrecisionSchedule, path: str | Path | None = None) -> Any:
    """A figure of the weights that each step reads, over those at FP16, colored by precision. Needs matplotlib."""
    need("matplotlib", "plot", "A figure of a precision schedule")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    title = f"{schedule.name}, nominal {schedule.estimated_speedup:.2f}x"
    axes = figure.add_subplot(xlabel="step", ylabel="weights / FP16", title=title)
    for precision in sorted(set(schedule.precisions)):
        steps = schedule.steps_at_precision(precision)
        heights = [schedule.step_info(i).memory_ratio for i in steps]
        axes.bar(steps, heights, width=1.0, label=precision.name, color=f"C{list(Precision).index(precision)}")
    axes.legend(ncols=3, loc="upper left")
    axes.set(xlim=(-0.5, schedule.total_steps - 0.5), ylim=(0, 1.35 * schedule.peak_memory_ratio))
    if path is not None:
        with replacing_file(path) as scratch:
            figure.savefig(scratch)
    return figure


def to_json(schedule: PrecisionSchedule) -> str:
    """The schedule as JSON."""
    changes = [
        {
            "from": c.from_precision.value,
            "to": c.to_precision.value,
            "start": c.start_step,
            "end": c.end_step,
            "strategy": str(c.strategy),
            "blend": list(c.blend_factors),
        }
        for c in schedule.changes
    ]
    precisions = [p.value for p in schedule.precisions]
    data = {"format": FORMAT, "name": schedule.name, "total_steps": schedule.total_steps}
    data |= {"precisions": precisions, "changes": changes}
    return json.dumps(data, indent=1, allow_nan=False)


def from_json(text: str, make: Callable[..., PrecisionSchedule]) -> PrecisionSchedule:
    """What `make` makes of the JSON that `to_json` wrote.

    Raises:
        ScheduleError: in one sentence, if it is something else.
    """
    try:
        return _made(parse_json(text, SHAPE), make)
    except (GearshiftError, ValueError, TypeError, RecursionError) as error:
        raise ScheduleError(f"This is not the JSON of a precision schedule: {told(error)}.") from error


def _made(read: dict[str, Any], make: Callable[..., PrecisionSchedule]) -> PrecisionSchedule:
    if read["total_steps"] != len(read["precisions"]):
        raise Misfit(f"it has {len(read['precisions'])} precisions for {read['total_steps']} steps")
    changes = tuple(
        PrecisionTransition(c["from"], c["to"], c["start"], c["end"], c["strategy"], tuple(c["blend"]))
        for c in read["changes"]
    )
    if not changes and len(set(read["precisions"])) > 1:
        raise Misfit("it has no changes, and its precisions change")
    return make(read["name"], tuple(read["precisions"]), changes)
