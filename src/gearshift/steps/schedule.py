"""The steps of a run that are computed, and the weights that make the others of what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gearshift.core.boundary import Misfit
from gearshift.core.plain import dict_of, either, fields, list_of, number, text, whole
from gearshift.steps.bands import groups
from gearshift.steps.memory import Weights

LAST = 100_000  # no run has more steps
SHAPE = fields(
    {
        "computed": list_of(whole(0, LAST), least=1, most=LAST),
        "weights": dict_of(
            list_of(either(list, list_of(number(), least=1, most=1000), number()), most=100),
            key=text(r"0|[1-9][0-9]{0,5}", "a position"),
        ),
    },
    {"end": whole(1, LAST)},
)


@dataclass(frozen=True)
class Schedule:
    """The steps of a run that are computed, and weights for the others.

    Attributes:
        computed: positions, the first step's among them.
        weights: position -> weights of the last computed outputs, newest first, and then perhaps that of the latent; a
            position that is not there is filled in by the predictor. A weight is a number, or has one for each group
            of `bands.groups`.
        end: the position after the last one that it is for, where runs were seen to end before the scheduler's list
            does; steps from there on are computed. None: it is for the whole list.
    """

    computed: tuple[int, ...]
    weights: Mapping[int, Weights] = field(default_factory=dict)
    end: int | None = None

    def as_data(self) -> dict[str, Any]:
        """As JSON keeps it."""
        weights = {str(p): [_listed(w) for w in ws] for p, ws in self.weights.items()}
        part = {} if self.end is None else {"end": self.end}
        return {"computed": list(self.computed), "weights": weights, **part}

    @staticmethod
    def of(data: Mapping[str, Any]) -> Schedule:
        """From what `as_data` gave.

        Raises:
            Misfit: for anything else.
        """
        read = SHAPE(data, "schedule")
        computed = tuple(read["computed"])
        if any(b <= a for a, b in pairwise(computed)):
            raise Misfit(f"schedule.computed must rise from {computed[0]}")
        weights: dict[int, Any] = {int(p): tuple(_read(w) for w in ws) for p, ws in read["weights"].items()}
        if any(len({0 if isinstance(w, float) else len(w) for w in ws}) > 1 for ws in weights.values()):
            raise Misfit("schedule.weights must be numbers, or lists of one length, at each position")
        return Schedule(computed, weights, read.get("end"))

    def reaches(self, position: int) -> bool:
        """Whether it is for this position."""
        return self.end is None or position < self.end

    def weights_for(self, position: int, kept: int, latent: Any) -> Weights | None:
        """The weights of a position if they are for so many kept outputs and, unless it is None, this latent."""
        found: Any = self.weights.get(position)
        if not found:
            return None
        if isinstance(found[0], float):
            fits = len(found) == kept or (latent is not None and len(found) == kept + 1)
        else:
            fits = latent is not None and len(found) == kept + 1 and len(found[0]) == groups(latent.shape)
        return found if fits else None


def _listed(weight: Any) -> Any:
    return weight if isinstance(weight, float) else list(weight)


def _read(weight: Any) -> float | tuple[float, ...]:
    return tuple(float(w) for w in weight) if isinstance(weight, list) else float(weight)
