"""Why each step of the newest sampling run was computed or reused, grouped by reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from gearshift.core.record import Record
from gearshift.steps.decision import Action, RunLog
from gearshift.steps.gate import Gate

UNTOLD = "planned so"  # for decisions that carry no reason of their own
_NUMBER = re.compile(r"\d[\d.]*(e[+-]?\d+)?")


@dataclass(frozen=True)
class Reason:
    """Steps of one branch that were treated alike.

    Attributes:
        action: computed or reused.
        text: why; of reasons that differ in their numbers alone, the first.
        steps: from 0, in order.
        gear: the precision of the layers on these steps where there are gears, else None.
    """

    action: Action
    text: str
    steps: tuple[int, ...]
    gear: str | None = None

    @property
    def verb(self) -> str:
        return "computed" if self.action is Action.COMPUTE else "reused"

    def __str__(self) -> str:
        gear = f" in {self.gear}" if self.gear else ""
        return f"{self.verb}{gear}, steps {in_spans(self.steps)}: {self.text}"


@dataclass(frozen=True)
class Explained:
    """One algorithm's decisions in the newest run.

    Attributes:
        rule: the algorithm, and the denoiser where there are several.
        site: the place in the model.
        branches: for each call of the denoiser within a step, the reasons in the order they first applied.
    """

    rule: str
    site: str
    branches: dict[int, list[Reason]]

    @staticmethod
    def of(log: RunLog) -> Explained:
        """What a log says."""
        groups: dict[int, dict[tuple[Action, str | None, str], tuple[str, list[int]]]] = {}
        for decision in log:
            text = decision.reason or UNTOLD
            key = (decision.action, decision.precision, _NUMBER.sub("#", text))
            groups.setdefault(decision.branch, {}).setdefault(key, (text, []))[1].append(decision.step)
        branches = {
            branch: [Reason(action, text, tuple(steps), gear) for (action, gear, _), (text, steps) in found.items()]
            for branch, found in groups.items()
        }
        if len({str(reasons) for reasons in branches.values()}) == 1:
            branches = dict([next(iter(branches.items()))])
        return Explained(log.rule, log.site, branches)

    def __str__(self) -> str:
        lines = []
        for branch, reasons in self.branches.items():
            total = len({step for reason in reasons for step in reason.steps})
            computed = sum(len(reason.steps) for reason in reasons if reason.action is Action.COMPUTE)
            where = f", pass {branch + 1}" if len(self.branches) > 1 else ""
            lines.append(f"{self.rule} at the {self.site}{where}: {computed} of {total} steps computed")
            lines += [f"  {reason}" for reason in reasons]
        return "\n".join(lines)


class Explanation(list[Explained]):
    """What `gearshift.explain` answers: one entry for each algorithm; prints, and shows as a table in notebooks.

    Attributes:
        notes: sentences that hold besides, for one why there is no entry.
    """

    def __init__(self, entries: Iterable[Explained] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(entries)
        self.notes = list(notes)

    def __str__(self) -> str:
        return "\n".join([*map(str, self), *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [
            (entry.rule, entry.site, str(branch + 1), r.verb, r.gear or "", in_spans(r.steps), r.text)
            for entry in self
            for branch, reasons in entry.branches.items()
            for r in reasons
        ]
        head = ("algorithm", "place", "pass", "what", "precision", "steps", "why")
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        top = "".join(f"<th>{cell}</th>" for cell in head)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><tr>{top}</tr>{body}</table>{notes}" if rows else notes


def explanation(record: Record | None) -> Explanation:
    """What the newest run of a model with this record did, and why."""
    if record is None or not record.applied:
        return Explanation(notes=["Nothing was done to this model."])
    notes = [note for applied in record.applied for note in applied.notes]
    if record.last_run:
        return Explanation([Explained.of(log) for log in record.last_run.values()], notes)
    names = [a.algorithm.name for a in record.applied if any(map(_is_at_a_gate, a.changes))]
    if names:
        return Explanation(notes=[f"{' and '.join(names)}: no sampling run has begun since.", *notes])
    names = [a.algorithm.name for a in record.applied]
    verb = "acts" if len(names) == 1 else "act"
    first = f"{' and '.join(names)} {verb} on all steps alike; gearshift.status says what was done."
    return Explanation(notes=[first, *notes])


def in_spans(steps: Iterable[int]) -> str:
    """Numbers in order, those that follow each other as one: '0-2, 5'."""
    found: list[list[int]] = []
    for step in steps:
        if found and step == found[-1][-1] + 1:
            found[-1] = [found[-1][0], step]
        else:
            found.append([step])
    return ", ".join("-".join(map(str, span)) for span in found)


def _is_at_a_gate(change: Any) -> bool:
    return isinstance(getattr(change, "gate", None), Gate)
