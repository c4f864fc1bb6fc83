"""What a plan's calls take: the count of steps from calls in turns, and both speeds in the status."""

from types import SimpleNamespace

import pytest
from support.tiny import build

import gearshift as gs
from gearshift.measure.calls import Turns
from gearshift.planner.plan import Plan
from gearshift.planner.recording import Recording
from gearshift.planner.step_search import _affordable, outside_of
from gearshift.steps.pace import part_of_time
from gearshift.steps.schedule import Schedule


def test_the_part_of_the_time_is_told_from_a_run_s_own_steps():
    seconds, computed = [9.0, 2.0, 0.5, 0.5, 2.0, 0.5], [True, True, False, False, True, False]
    assert part_of_time(seconds, computed, 0.0) == pytest.approx(14.5 / 12)
    assert part_of_time([2.0, *seconds[1:]], computed, 0.25) == pytest.approx((4 + 7.5) / 16)
    assert part_of_time(seconds, [True] + [False] * 5, 0.0) is None


def test_a_planned_run_says_both_speeds_and_another_none(tmp_path):
    tiny = build("dit")
    schedule = Schedule((0, 1, 4, 8), timing=(0.5, 0.1))
    plan = Plan.load(Plan("12", 12, schedule, "target 2x").save(tmp_path / "plan.json"))
    assert plan.schedule == schedule
    plan.apply(tiny.pipe)
    tiny.run(steps=12)
    assert "speed: 2.00x as planned, " in str(gs.status(tiny.pipe))
    gs.restore(tiny.pipe)
    Plan("12", 12, Schedule((0, 1, 4, 8)), "target 2x").apply(tiny.pipe)
    tiny.run(steps=12)
    assert "as planned" not in str(gs.status(tiny.pipe))


@pytest.mark.parametrize(("part", "expected"), [([2.4, 2.4, 2.4], 8), ([1.6, 1.6, 1.6], 12), ([2.4, 9.0, 2.38], 8)])
def test_the_count_of_steps_does_not_follow_one_slow_call(part, expected):
    """10 of 50 steps computed took 2.4 s of 10 s: a step costs 0.19 s, and 2 s leave room for two fewer."""
    found = SimpleNamespace(schedule=Schedule(tuple(range(10))))
    rehearsals = SimpleNamespace(
        nearest=lambda *_: found, compared=lambda schedule: Turns(0.2, [10.0, 9.9, 10.1], part)
    )
    watch = Recording(seconds=[0.2] * 50, denoising=10.0)
    assert _affordable(0.2, rehearsals, watch, 10.0) == expected
    assert outside_of(watch, 12.5) == pytest.approx(0.2)
