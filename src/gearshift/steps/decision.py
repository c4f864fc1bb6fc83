"""Decision: what was done at one place on one step, and why; a table of them is a plan, and a log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

LONGEST = 120  # letters of a line
GUARDED = "guard: a step before differed from its prediction by more than was usual while planning"
_GEARS: dict[str | None, str] = {"INT4": "4", "INT8": "8"}


def clipped(line: str, most: int = LONGEST) -> str:
    """A line with one letter for each step; of a long one the ends."""
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


class Action(str, Enum):
    COMPUTE = "compute"
    REUSE = "reuse"
    FILL = REUSE  # its former name


@dataclass(frozen=True)
class Decision:
    """One row of a plan or a log.

    Attributes:
        step: steps since the run's first one, from 0.
        site: the place, e.g. 'backbone'.
        branch: which call of the denoiser within the step (conditional and unconditional passes are two), from 0.
        action: computed, or filled in from what was kept.
        precision: the gear's name where there are gears, else None.
        reason: a few words.
    """

    step: int
    site: str
    branch: int
    action: Action
    precision: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        gear = f" in {self.precision}" if self.precision else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"step {self.step}, pass {self.branch + 1} at the {self.site}: {self.action.value}{gear}{why}"


@dataclass(repr=False)
class RunLog:
    """The decisions of one algorithm in one sampling run.

    Attributes:
        total: steps of the run, as far as it is known; 0 if not.
        speed: the plan's and the run's, in words.
    """

    rule: str
    site: str
    total: int = 0
    speed: str = ""
    table: dict[tuple[int, int], Decision] = field(default_factory=dict)

    def note(self, decision: Decision) -> None:
        """Keep a decision; where places of one site differ within a step, that step counts as computed."""
        key = (decision.step, decision.branch)
        held = self.table.get(key)
        if held is None or (held.action is Action.REUSE and decision.action is Action.COMPUTE):
            self.table[key] = decision

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.table[key] for key in sorted(self.table))

    def steps(self, action: Action, branch: int = 0) -> list[int]:
        """Steps on which this was done."""
        return [d.step for d in self if d.action is action and d.branch == branch]

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        if any(d.precision for d in self):
            return f"{self.rule}: " + clipped("".join(_GEARS.get(d.precision, "#") for d in self if d.branch == 0))
        filled = set(self.steps(Action.REUSE))
        line = "".join("." if d.step in filled else "#" for d in self if d.branch == 0)
        shown = f"{clipped(line)} (# computed, . reused: {len(filled)} of {len(line)})"
        return "\n".join([f"{self.rule} at the {self.site}: {shown}", *self.told])

    @property
    def told(self) -> list[str]:
        """What is to be said of the run besides its steps."""
        said = [self.speed] if self.speed else []
        added = [str(d.step) for d in self if d.branch == 0 and d.reason == GUARDED]
        if not added:
            return said
        places = " and ".join([", ".join(added[:-1]), added[-1]] if added[1:] else added)
        return [*said, f"  guard: {len(added)} extra step{'s' if added[1:] else ''} at {places}"]
