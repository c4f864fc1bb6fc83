"""Timing is fair in its order, bounded in its time, and says where it was taken."""

import time

import pytest
import torch

from gearshift.core.errors import BadValue
from gearshift.evaluate.timing import Timing, interleaved, machine_description


def recorded(names, **options):
    order = []
    calls = {name: (lambda n=name: order.append(n)) for name in names}
    return order, interleaved(calls, **options)


def test_every_round_runs_each_call_once_and_starts_one_later():
    order, timings = recorded("abc", repeats=3, warmup=0)
    assert "".join(order) == "abcbcacab"
    assert list(timings) == ["a", "b", "c"]
    assert all(len(t.seconds) == 3 for t in timings.values())


def test_warm_up_rounds_are_not_timed():
    order, timings = recorded("ab", repeats=2, warmup=2)
    assert len(order) == 8 and len(timings["a"].seconds) == 2


def test_a_spent_budget_still_leaves_one_timed_round():
    order, timings = recorded("ab", repeats=50, warmup=1, budget_seconds=0)
    assert len(order) == 4 and len(timings["b"].seconds) == 1


def test_the_budget_ends_the_rounds_early():
    timings = interleaved({"nap": lambda: time.sleep(0.02)}, repeats=100, warmup=0, budget_seconds=0.1)
    assert 1 <= len(timings["nap"].seconds) <= 6


def test_seconds_are_wall_clock():
    timings = interleaved({"long": lambda: time.sleep(0.03), "short": lambda: None}, repeats=2, warmup=0)
    assert timings["long"].median >= 0.03 > timings["short"].median


def test_progress_is_told_after_each_call():
    told = []
    recorded("ab", repeats=1, warmup=1, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_median_and_spread():
    timing = Timing([1.0, 2.0, 4.0])
    assert timing.median == 2.0 and timing.spread == 1.5
    assert "spread 150% over 3 rounds" in str(timing)


@pytest.mark.parametrize("options", [{"repeats": 0}, {"warmup": -1}])
def test_counts_out_of_range_are_refused(options):
    with pytest.raises(BadValue, match="at least"):
        interleaved({}, **options)


def test_the_machine_is_described_on_one_line():
    words = machine_description()
    assert "CPU core" in words and f"torch {torch.__version__}" in words and "\n" not in words
