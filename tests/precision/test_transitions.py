"""Changes of precision and their plan."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each

from gearshift.core.errors import BadValue, UnknownName
from gearshift.precision import (
    InvalidTransition,
    MemoryConstraint,
    Precision,
    PrecisionTransition,
    ScheduleError,
    TransitionPlanner,
    TransitionStrategy,
    default_log_snr,
)

P = Precision
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
pairs = st.permutations(list(P)).map(lambda kinds: kinds[:2])


def test_immediate():
    change = PrecisionTransition.immediate(P.INT4, P.INT8, 10)
    assert [change.blend_at(i) for i in (9, 10, 11)] == [0, 1, 1]
    assert [change.contains_step(i) for i in (9, 10, 11)] == [False, True, False]
    assert [change.effective_precision(i) for i in (9, 10)] == [P.INT4, P.INT8]
    assert change.peak_memory_ratio() == 0.5


def test_gradual_goes_in_equal_shares():
    change = PrecisionTransition.gradual(P.INT8, P.FP16, 4, 3)
    assert [change.blend_at(i) for i in range(3, 8)] == [0, 0.25, 0.5, 0.75, 1]
    assert [change.effective_precision(i) for i in (4, 5)] == [P.INT8, P.FP16]
    assert (change.start_step, change.end_step) == (4, 7)


def test_both_are_resident_while_blending():
    change = PrecisionTransition.gradual(P.INT8, P.FP16, 4, 3)
    assert change.peak_memory_ratio() == 1.5
    assert change.peak_memory_ratio(one_copy=True) == 1.0


def test_step_aware_is_a_smooth_step_in_log_snr():
    path = [0.0, 1.0, 2.0, 4.0, 8.0, 9.0]
    change = PrecisionTransition.step_aware(P.INT4, P.FP16, 2, path, 2)
    # 0 at step 1, where log-SNR is 1; 1 at step 4, where it is 8
    parts = [(2 - 1) / 7, (4 - 1) / 7]
    assert change.blend_factors == pytest.approx([3 * u**2 - 2 * u**3 for u in parts])
    even = PrecisionTransition.step_aware(P.INT4, P.FP16, 2, list(range(9)), 3)
    assert even.blend_factors == pytest.approx([0.15625, 0.5, 0.84375])


def test_step_aware_where_the_noise_stands_still_goes_by_steps():
    change = PrecisionTransition.step_aware(P.INT4, P.FP16, 1, [-14.0] * 6, 3)
    assert change.blend_factors == pytest.approx([0.15625, 0.5, 0.84375])


@pytest.mark.parametrize("start", [0, 4, -1])
def test_step_aware_lies_within_the_run(start):
    with pytest.raises(InvalidTransition, match="must lie in the 6 steps"):
        PrecisionTransition.step_aware(P.INT4, P.FP16, start, default_log_snr(6), 3)


@quick
@given(pairs, st.integers(1, 40), st.integers(1, 10), st.sampled_from(["gradual", "step_aware"]))
def test_blends_rise_from_0_to_1(kinds, start, steps, kind):
    path = default_log_snr(60)
    make = getattr(PrecisionTransition, kind)
    change = make(*kinds, start, steps) if kind == "gradual" else make(*kinds, start, path, steps)
    change.validate()
    blends = [change.blend_at(i) for i in range(60)]
    assert blends == sorted(blends) and blends[start - 1] == 0 and blends[start + steps] == 1
    assert all(0 < b < 1 for b in change.blend_factors) and len(change.blend_factors) == steps
    assert change.peak_memory_ratio() == kinds[0].memory_ratio() + kinds[1].memory_ratio()
    assert sum(change.contains_step(i) for i in range(60)) == steps


@each(
    ("old", "new", "start", "end", "strategy", "factors", "fault"),
    [
        (P.INT8, P.INT8, 3, 4, "immediate", (1.0,), "leave it out"),
        (P.INT4, P.INT8, -1, 0, "immediate", (1.0,), "ints from 0 on"),
        (P.INT4, P.INT8, 3, 3, "immediate", (), "its end after its start"),
        (P.INT4, P.INT8, 3.5, 4.5, "immediate", (1.0,), "ints from 0 on"),
        (P.INT4, P.INT8, 3, 5, "gradual(2)", (0.5,), "its 2 steps, its strategy's and its blend factors"),
        (P.INT4, P.INT8, 3, 5, "gradual(2)", (0.7, 0.3), "must rise"),
        (P.INT4, P.INT8, 3, 5, "gradual(2)", (0.3, 1.3), "from 0 to 1"),
        (P.INT4, P.INT8, 3, 5, "gradual(2)", (0.3, float("nan")), "from 0 to 1"),
        (P.INT4, P.INT8, 3, 4, "immediate", (0.5,), "wholly at the new precision"),
    ],
)
def test_what_is_no_change_is_refused(old, new, start, end, strategy, factors, fault):
    with pytest.raises(InvalidTransition, match=fault) as caught:
        PrecisionTransition(old, new, start, end, strategy, factors)
    assert (caught.value.start_step, caught.value.end_step) == (start, end)


@pytest.mark.parametrize("start", [-1, "3", None, 2.5])
def test_a_start_that_is_no_step_is_refused(start):
    for make in (PrecisionTransition.immediate, PrecisionTransition.gradual):
        with pytest.raises(InvalidTransition, match="must be ints from 0 on"):
            make(P.INT4, P.INT8, start)
    with pytest.raises(InvalidTransition, match="must lie in"):
        PrecisionTransition.step_aware(P.INT4, P.INT8, start, default_log_snr(9))


@pytest.mark.parametrize("text", ["immediate", "gradual(3)", "step_aware(5)"])
def test_strategies_are_read_as_they_are_written(text):
    assert str(TransitionStrategy.parse(text)) == text


def test_strategies_by_name_alone_and_unknown_ones():
    assert TransitionStrategy.parse("gradual") == TransitionStrategy.gradual()
    with pytest.raises(UnknownName, match="did you mean 'gradual'"):
        TransitionStrategy.parse("gradul(3)")
    with pytest.raises(BadValue, match=r"must be an int of at least 1\. Got 0"):
        TransitionStrategy.parse("gradual(0)")
    with pytest.raises(BadValue, match=r"must be 1\. Got 2"):
        TransitionStrategy.parse("immediate(2)")


SEGMENTS = [(0, 10, P.INT4), (10, 25, P.INT8), (25, 50, P.FP16)]


@pytest.mark.parametrize("strategy", ["immediate", "gradual(3)", "step_aware(3)"])
def test_changes_are_planned_where_segments_meet(strategy):
    plan = TransitionPlanner(preferred_strategy=strategy).plan_transitions(SEGMENTS)
    assert [(t.start_step, t.from_precision, t.to_precision) for t in plan] == [
        (10, P.INT4, P.INT8),
        (25, P.INT8, P.FP16),
    ]
    assert {str(t.strategy) for t in plan} == {strategy}


def test_segments_of_one_precision_are_one():
    assert TransitionPlanner().plan_transitions([(0, 2, P.INT8), (2, 4, P.INT8)]) == []


def test_a_blend_is_cut_to_its_segment():
    planner = TransitionPlanner(preferred_strategy=TransitionStrategy.gradual(8))
    plan = planner.plan_transitions([(0, 4, P.INT4), (4, 8, P.INT8), (8, 10, P.FP16)])
    assert [(t.start_step, t.end_step) for t in plan] == [(4, 8), (8, 10)]


def test_changes_too_near_each_other_are_refused():
    near = [(0, 4, P.INT4), (4, 6, P.INT8), (6, 10, P.FP16)]
    with pytest.raises(InvalidTransition, match="only 2 steps earlier; keep 3 between them, or lower min_gap"):
        TransitionPlanner().plan_transitions(near)
    assert len(TransitionPlanner(min_gap=2).plan_transitions(near)) == 2


@each(
    "segments",
    [
        [(1, 4, P.INT4)],
        [(0, 4, P.INT4), (5, 8, P.INT8)],
        [(0, 0, P.INT4)],
        [(0, 4, P.INT4), (3, 8, P.INT8)],
        [(0, "4", P.INT4)],
    ],
)
def test_segments_follow_each_other(segments):
    with pytest.raises(InvalidTransition, match="must follow each other"):
        TransitionPlanner().plan_transitions(segments)


def test_a_blend_that_does_not_fit_becomes_immediate():
    planner = TransitionPlanner(1200, TransitionStrategy.gradual(3), model_mb=1000)
    plan = planner.optimize_for_memory(planner.plan_transitions(SEGMENTS))
    assert [t.strategy.kind for t in plan] == ["gradual", "immediate"]  # 750 and 1500 MiB while blending
    assert plan[1] == PrecisionTransition.immediate(P.INT8, P.FP16, 25)
    planner.one_copy = True
    assert {t.strategy.kind for t in planner.optimize_for_memory(planner.plan_transitions(SEGMENTS))} == {"gradual"}


def test_what_fits_in_no_way_is_said():
    planner = TransitionPlanner(900, TransitionStrategy.gradual(3), model_mb=1000)
    with pytest.raises(MemoryConstraint, match="INT8 to FP16 at step 25 needs 1000 MiB and there are 900") as caught:
        planner.optimize_for_memory(planner.plan_transitions(SEGMENTS))
    assert (caught.value.needed, caught.value.available) == (1000, 900)
    with pytest.raises(ScheduleError, match="memory_mb and model_mb"):
        TransitionPlanner().optimize_for_memory([])


@each("gap", [0, -1, 1.5, True, None])
def test_min_gap_is_a_count(gap):
    with pytest.raises(BadValue, match="min_gap must be an int of at least 1"):
        TransitionPlanner(min_gap=gap)


@quick
@given(st.lists(st.tuples(st.integers(3, 9), st.sampled_from(list(P))), min_size=1, max_size=6), st.integers(1, 12))
def test_any_plan_leads_from_the_first_precision_to_the_last(lengths, steps):
    segments, at = [], 0
    for length, precision in lengths:
        segments.append((at, at + length, precision))
        at += length
    plan = TransitionPlanner(preferred_strategy=TransitionStrategy.gradual(steps)).plan_transitions(segments)
    precision = segments[0][2]
    ends = [t.start_step for t in plan[1:]] + [at]
    for change, end in zip(plan, ends, strict=False):
        assert change.from_precision is precision
        assert change.end_step <= end
        precision = change.to_precision
    assert precision is segments[-1][2]
