"""What was done on each denoising step, as a strip of steps over an axis of step numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from gearshift.steps.decision import Action, Decision, RunLog

TALL, SHORT, TOP = 32, 14, 4
BOTTOM = TOP + TALL
WORDS = {Action.COMPUTE: "computed", Action.REUSE: "reused"}
PATTERN = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="hatch" x1="0" x2="0" y1="0" y2="5"/>'
    "</pattern></defs></svg>"
)


@dataclass(frozen=True)
class Timeline:
    """The decisions of one row's run: one log per algorithm and site."""

    name: str
    logs: Sequence[RunLog]


def timelines(shown: Sequence[Timeline]) -> str:
    """A key, then one card per row."""
    key = (
        f'{PATTERN}<div class="key soft">'
        f"<span>{_icon(Action.COMPUTE)}tall and solid: computed</span>"
        f"<span>{_icon(Action.REUSE)}low and hatched: reused from earlier steps</span></div>"
    )
    cards = []
    for timeline in shown:
        tracks = (
            "".join(_track(log, b) for log in timeline.logs for b in _branches(log)) or '<p class="soft">No log.</p>'
        )
        cards.append(f'<section class="card"><h3>{escape(timeline.name)}</h3>{tracks}</section>')
    return key + "".join(cards)


def _branches(log: RunLog) -> list[int]:
    """One branch stands for all where all did the same on each step."""
    found = sorted({d.branch for d in log})
    done = [[(d.step, d.action, d.precision) for d in log if d.branch == b] for b in found]
    return found[:1] if all(d == done[0] for d in done) else found


def _track(log: RunLog, branch: int) -> str:
    decisions = [d for d in log if d.branch == branch]
    steps = max(log.total, 1 + max(d.step for d in decisions))
    computed = sum(d.action is Action.COMPUTE for d in decisions)
    title = f"{log.rule} at the {log.site}: {computed} of {len(decisions)} steps computed"
    title += f", pass {branch + 1} of each step" if len(_branches(log)) > 1 else ""
    title += f"; {steps - len(decisions)} of {steps} steps not recorded" if len(decisions) < steps else ""
    held = {d.step: d for d in decisions}
    boxes = "".join(_step(step, held.get(step), 100 / steps) for step in range(steps))
    return (
        f'<div class="track"><p class="soft">{escape(title)}</p>'
        f'<svg class="strip" role="img" aria-label="{escape(title)}">{boxes}{_axis(steps)}</svg>'
        f"{_in_words(decisions)}</div>"
    )


def _step(step: int, decision: Decision | None, wide: float) -> str:
    x, width = f"{step * wide:.3f}%", f"{wide * 0.82:.3f}%"
    if decision is None:
        return f'<rect class="unknown" x="{x}" y="{TOP}" width="{width}" height="{TALL}"/>'
    words = f"step {step}: {WORDS[decision.action]}"
    words += f" in {decision.precision}" if decision.precision else ""
    words += f" ({decision.reason})" if decision.reason else ""
    return f"<g><title>{escape(words)}</title>{_box(decision.action, x, width)}</g>"


def _box(action: Action, x: str, width: str) -> str:
    if action is Action.COMPUTE:
        return f'<rect class="computed" x="{x}" y="{TOP}" width="{width}" height="{TALL}" rx="1.5"/>'
    y = BOTTOM - SHORT
    return f'<rect class="edge" fill="url(#hatch)" x="{x}" y="{y}" width="{width}" height="{SHORT}" rx="1.5"/>'


def _icon(action: Action) -> str:
    return f'<svg viewBox="-1 0 20 {BOTTOM + 2}" aria-hidden="true">{_box(action, "0", "18")}</svg>'


def _axis(steps: int) -> str:
    """Round step numbers, at most about eight, and always the last."""
    last = steps - 1
    gap = next(g for n in range(9) for g in (10**n, 2 * 10**n, 5 * 10**n) if steps / g <= 8)
    marks = [s for s in range(0, steps, gap) if last - s >= gap * 0.45]
    return "".join(_mark(s, steps) for s in [*marks, last])


def _mark(step: int, steps: int) -> str:
    middle = f"{(step + 0.41) * 100 / steps:.3f}%"
    return (
        f'<line x1="{middle}" x2="{middle}" y1="{BOTTOM + 2}" y2="{BOTTOM + 6}"/>'
        f'<text x="{middle}" y="{BOTTOM + 18}" text-anchor="middle">{step}</text>'
    )


def _in_words(decisions: Sequence[Decision]) -> str:
    """The tooltips' content for those who cannot hover: ranges of steps by what was done and why."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for d in decisions:
        done = WORDS[d.action] + (f" in {d.precision}" if d.precision else "")
        kinds.setdefault((done, d.reason), []).append(d.step)
    lines = "".join(
        f"<li>{escape(done)}{escape(f' ({reason})' if reason else '')}: {_ranges(steps)}</li>"
        for (done, reason), steps in kinds.items()
    )
    return f"<details><summary>Steps in words</summary><ul>{lines}</ul></details>"


def _ranges(steps: Sequence[int]) -> str:
    runs = [[s for _, s in run] for _, run in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
