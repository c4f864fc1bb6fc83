"""A plan's file is read whole or refused in one sentence that names it and the place of the fault."""

import json

import pytest

import gearshift as gs
from gearshift.core.errors import BadValue, BrokenFolder
from gearshift.precision import Precision, quick_schedule
from gearshift.steps.schedule import Schedule


@pytest.fixture
def plan(tmp_path):
    made = gs.Plan(
        "key", 8, Schedule((0, 1, 4), {2: (0.5, 0.5)}), "asked", gears=quick_schedule("balanced", 8), error=0.1
    )
    return made.save(tmp_path / "plan.json")


def test_it_is_read_as_it_was_written(plan):
    again = gs.Plan.load(plan)
    assert again.schedule == Schedule((0, 1, 4), {2: (0.5, 0.5)}) and again.gears == quick_schedule("balanced", 8)
    assert "3 of 8 steps" in str(again)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"steps": 10**10}, "steps must be an int from 1"),
        ({"steps": 4}, "positions beyond its 4 steps"),
        ({"steps": 20}, "gears are for 8 steps"),
        ({"memory": 0}, "memory must be a number"),
        ({"fraction": 0}, "fraction must be a number"),
        ({"error": "x"}, "error must be a number"),
        ({"error": float("nan")}, "error must be a number"),
        ({"sensitivity": [1.0]}, "sensitivity has 1 items"),
        ({"schedule": {"computed": [], "weights": {}}}, r"schedule\.computed must be a list of 1"),
        ({"schedule": {"computed": [1, 2], "weights": {}}}, "must rise from 0"),
        ({"schedule": {"computed": [0, 2, 2], "weights": {}}}, "must rise from 0"),
        ({"schedule": {"computed": [0], "weights": {"x": [1.0]}}}, r"a key of schedule\.weights must be a position"),
        ({"schedule": {"computed": [0], "weights": {"9": [1.0]}}}, "positions beyond"),
        ({"schedule": {"computed": [0], "weights": {"1": [float("inf")]}}}, r"schedule\.weights\['1'\]\[0\] must be a"),
        ({"schedule": {"computed": [0], "weights": {"1": [1.0, [1.0]]}}}, "lists of one length"),
        ({"gears": {"format": "x"}}, "not the JSON of a precision schedule"),
        ({"mode": "nope"}, "mode must be one of"),
        ({"key": 5}, "key must be a string"),
        ({"more": 5}, "has 'more', which is unknown"),
    ],
    ids=str,
)
def test_what_was_altered_is_named(plan, change, why):
    plan.write_text(json.dumps({**json.loads(plan.read_text()), **change}))
    with pytest.raises(BrokenFolder, match=why) as caught:
        gs.Plan.load(plan)
    assert str(plan) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("given", [None, 5, "", "a\0b", [], "/nope/x.json", "/dev/null", "/"])
def test_what_is_no_file_of_a_plan_is_refused(given):
    with pytest.raises((BrokenFolder, BadValue)):
        gs.Plan.load(given)


@pytest.mark.parametrize("steps", [0, -1, 2.5, None, "x", 10**9, True])
def test_a_plan_is_resampled_to_a_number_of_steps(plan, steps):
    with pytest.raises(BadValue, match="is resampled to"):
        gs.Plan.load(plan).resampled(steps)


def test_a_figure_that_cannot_be_written_is_refused(plan, tmp_path):
    for place in (plan / "x.png", tmp_path / "x.nope"):
        with pytest.raises(BrokenFolder, match="cannot be written"):
            gs.Plan.load(plan).plot(place)


def test_a_precision_is_compared_with_one_by_name():
    assert Precision.INT8.memory_ratio("fp32") == Precision.INT8.memory_ratio(Precision.FP32) == 0.25
