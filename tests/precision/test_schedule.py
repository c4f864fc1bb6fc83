"""Schedules: the precision of each step of a run."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each

from gearshift.core.errors import UnknownName
from gearshift.precision import (
    AdaptiveError,
    InvalidStep,
    InvalidTransition,
    Precision,
    PrecisionCapabilities,
    PrecisionProfile,
    PrecisionSchedule,
    PrecisionTransition,
    PrecisionZone,
    ProfileError,
    ProfilePreset,
    QualityConstraint,
    ScheduleConfig,
    ScheduleError,
    UnsupportedPrecision,
    log_snr_of,
    prelude,
    quick_schedule,
    try_generate,
)

P = Precision
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

configs = st.builds(
    ScheduleConfig,
    total_steps=st.integers(1, 80),
    preset=st.sampled_from(ProfilePreset.all()),
    transition_strategy=st.sampled_from(["immediate", "gradual(1)", "gradual(3)", "gradual(9)", "step_aware(4)"]),
)


@each("step", range(50))
def test_the_picture(step):
    precision, weights, nominal = (
        (P.INT4, 0.25, 4) if step < 10 else (P.INT8, 0.5, 2) if step < 25 else (P.FP16, 1.0, 1)
    )
    info = quick_schedule("balanced", 50).step_info(step)
    assert (info.step, info.precision, info.memory_ratio, info.blend_factor) == (step, precision, weights, 1.0)
    assert info.precision.nominal_speedup == nominal
    assert info.quality_factor == precision.nominal_quality
    assert info.is_transition == (step in (10, 25))


def test_totals_of_the_picture():
    schedule = quick_schedule("balanced", 50)
    assert schedule.transitions == [(10, P.INT4, P.INT8), (25, P.INT8, P.FP16)]
    assert schedule.estimated_speedup == pytest.approx(50 / (10 / 4 + 15 / 2 + 25))  # time, not a mean of factors
    assert schedule.avg_memory_ratio == pytest.approx((10 * 0.25 + 15 * 0.5 + 25) / 50)
    assert schedule.peak_memory_ratio == 1.0
    assert schedule.avg_quality_factor == pytest.approx((10 * 0.92 + 15 * 0.97 + 25 * 0.998) / 50)
    assert schedule.precision_distribution() == {P.INT4: 0.2, P.INT8: 0.3, P.FP16: 0.5}
    assert schedule.steps_at_precision("int8") == list(range(10, 25))
    assert [schedule.next_transition(i) for i in (9, 10, 25)] == [(10, P.INT4, P.INT8), (25, P.INT8, P.FP16), None]


def test_the_timeline():
    assert quick_schedule("balanced", 50).format_timeline().splitlines()[1:] == [
        "  " + 10 * "4" + 15 * "8" + 25 * "h",
        "  4  INT4  steps 0-9       weights  25%  nominal 4x",
        "  8  INT8  steps 10-24     weights  50%  nominal 2x",
        "  h  FP16  steps 25-49     weights 100%  nominal 1x",
    ]
    blended = PrecisionSchedule.generate(ScheduleConfig(10, transition_strategy="gradual(2)"))
    assert blended.format_timeline().splitlines()[1] == "  44//8//hhh"


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    figure = quick_schedule("balanced", 50).plot(tmp_path / "schedule.png")
    assert (tmp_path / "schedule.png").stat().st_size > 1000
    assert [len(bars) for bars in figure.axes[0].containers] == [10, 15, 25]


def test_the_common_five():
    assert sorted(prelude.__all__) == ["Precision", "PrecisionProfile", "PrecisionSchedule", "ProfilePreset", "Result"]
    assert isinstance(quick_schedule(), prelude.PrecisionSchedule) and quick_schedule().total_steps == 30


@quick
@given(configs)
def test_any_schedule_is_consistent_and_survives_json(config):
    schedule = PrecisionSchedule.generate(config)
    steps = schedule.steps
    assert [s.step for s in steps] == list(range(config.total_steps))
    assert sum(schedule.precision_distribution().values()) == pytest.approx(1)
    assert sum(len(schedule.steps_at_precision(p)) for p in P) == config.total_steps
    assert config.min_quality <= schedule.avg_quality_factor <= 1
    assert 0.25 <= schedule.avg_memory_ratio <= schedule.peak_memory_ratio <= 1
    slowest, fastest = (f(p.nominal_speedup for p in schedule.precisions) for f in (min, max))
    assert slowest - 1e-9 <= schedule.estimated_speedup <= fastest + 1e-9
    changed = [i for i in range(1, len(steps)) if steps[i].precision is not steps[i - 1].precision]
    assert changed == [step for step, *_ in schedule.transitions]
    assert PrecisionSchedule.from_json(schedule.to_json()) == schedule


@quick
@given(st.integers(1, 200), st.sampled_from([p for p in ProfilePreset.all() if p is not ProfilePreset.NOISE_ADAPTIVE]))
def test_a_step_belongs_to_the_zone_of_its_start(total, preset):
    schedule, zones = quick_schedule(preset, total), preset.build().zones
    for i in range(total):
        zone = next(z for z in reversed(zones) if round(z.start * 100) * total <= i * 100)
        assert schedule.precision_at(i) is zone.precision


@each("preset", ProfilePreset.all())
@each("total", [1, 2, 4, 30, 1000])
def test_every_preset_builds_with_the_defaults(preset, total):
    for device in (None, PrecisionCapabilities.modern_gpu(8192), PrecisionCapabilities.cpu(8192)):
        config = ScheduleConfig(total, preset, capabilities=device)
        assert PrecisionSchedule.generate(config).avg_quality_factor >= 0.90


def test_a_blending_step_counts_by_shares():
    schedule = PrecisionSchedule.generate(ScheduleConfig(10, transition_strategy="gradual(1)"))
    info = schedule.step_info(5)
    assert (info.precision, info.is_transition, info.blend_factor) == (P.FP16, True, 0.5)
    assert info.memory_ratio == pytest.approx(0.75)
    assert info.quality_factor == pytest.approx((0.97 + 0.998) / 2)
    time = 2 / 4 + (1 / 4 + 1 / 2) / 2 + 2 / 2 + (1 / 2 + 1) / 2 + 4
    assert schedule.estimated_speedup == pytest.approx(10 / time)
    assert schedule.change_at(5).from_precision is P.INT8 and schedule.change_at(6) is None


def euler(**options):
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(**SD, **options)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "leading"}])
def test_noise_adaptive_follows_the_real_sigmas(options):
    scheduler = euler(**options)
    before = scheduler.timesteps.clone()
    schedule = PrecisionSchedule.generate(ScheduleConfig(25, "noise_adaptive"), scheduler)
    assert scheduler.timesteps.equal(before) and scheduler.num_inference_steps is None  # left as it was
    scheduler.set_timesteps(25)
    expected = [P.INT4 if s >= 5.0 + 1e-4 else P.INT8 if s > 0.5 else P.FP16 for s in map(float, scheduler.sigmas[:25])]
    assert list(schedule.precisions) == expected and len(set(expected)) == 3
    assert PrecisionSchedule.generate(ScheduleConfig(25, "noise_adaptive"), scheduler) == schedule


def test_noise_adaptive_reads_alphas_where_there_are_no_sigmas():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**SD, timestep_spacing="trailing")
    path = log_snr_of(scheduler, 50)
    by_euler = log_snr_of(euler(timestep_spacing="trailing"), 50)
    assert path == pytest.approx(by_euler, abs=1e-3)
    config = ScheduleConfig(50, "noise_adaptive")
    assert PrecisionSchedule.generate(config, scheduler).precisions == PrecisionSchedule.generate(config).precisions


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_adaptive_is_rescaled_for_flow_matching(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = PrecisionSchedule.generate(ScheduleConfig(28, "noise_adaptive"), scheduler)
    scheduler.set_timesteps(28)
    # equal noise over signal: 5 is s = 5/6, 0.5 is s = 1/3
    sigmas = [float(s) for s in scheduler.sigmas[:28]]
    assert list(schedule.precisions) == [P.INT4 if s > 5 / 6 else P.INT8 if s > 1 / 3 else P.FP16 for s in sigmas]
    assert len(set(schedule.precisions)) == 3


def test_zones_in_log_snr_lie_where_the_noise_is():
    profile = PrecisionProfile("half the noise")
    profile.add_zone(PrecisionZone(-math.inf, 0.0, P.INT8, unit="log_snr"))
    profile.add_zone(PrecisionZone(0.0, math.inf, P.FP16, unit="log_snr"))
    path = log_snr_of(euler(), 40)
    schedule = PrecisionSchedule.generate(ScheduleConfig(40, custom_profile=profile), euler())
    assert [p is P.FP16 for p in schedule.precisions] == [x >= 0 for x in path]


def test_an_unsupported_precision_is_an_error_or_the_next_higher_one():
    old = PrecisionCapabilities.legacy_gpu(4096)
    with pytest.raises(UnsupportedPrecision, match="strict_capabilities=False") as caught:
        PrecisionSchedule.generate(ScheduleConfig(10, capabilities=old))
    assert (caught.value.precision, caught.value.step) == (P.INT4, 0)
    schedule = PrecisionSchedule.generate(ScheduleConfig(10, capabilities=old, strict_capabilities=False))
    assert schedule.precision_distribution() == {P.FP16: 1.0} and schedule.transitions == []


def test_too_low_a_quality_is_an_error_that_can_be_given_back():
    config = ScheduleConfig(50, "performance", min_quality=0.97)
    with pytest.raises(QualityConstraint, match=r"0\.9584, below 0\.9700"):
        PrecisionSchedule.generate(config)
    error = try_generate(config)
    assert isinstance(error, QualityConstraint) and error.quality == pytest.approx(0.9584)
    assert isinstance(try_generate(ScheduleConfig(50)), PrecisionSchedule)


def test_a_profile_with_a_gap_makes_no_schedule():
    profile = PrecisionProfile("p", zones=[PrecisionZone(0, 0.5, P.INT8)])
    assert isinstance(try_generate(ScheduleConfig(10, custom_profile=profile)), ProfileError)


@each("steps", [0, -1, 2.5, True, "30", None])
def test_total_steps_is_a_count(steps):
    with pytest.raises(ScheduleError, match="total_steps must be an int of at least 1"):
        ScheduleConfig(steps)


@each("quality", [-0.1, 1.1, math.nan, "high", True])
def test_min_quality_is_a_share(quality):
    with pytest.raises(ScheduleError, match="min_quality must be a number from 0 to 1"):
        ScheduleConfig(min_quality=quality)


@pytest.mark.parametrize("name", ["custom_profile", "capabilities"])
def test_parts_of_another_type_are_refused(name):
    with pytest.raises(ScheduleError, match=f"{name} must be a Precision.*, or None. Got 'balanced'"):
        ScheduleConfig(**{name: "balanced"})


def test_unknown_names_get_suggestions():
    with pytest.raises(UnknownName, match="did you mean 'quality'"):
        quick_schedule("qualty", 10)
    with pytest.raises(UnknownName, match="did you mean 'immediate'"):
        ScheduleConfig(transition_strategy="imediate")


@each("step", [-1, 50, 1.0, True, "3", None])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(InvalidStep, match="from 0 to 49") as caught:
        quick_schedule("balanced", 50).precision_at(step)
    assert caught.value.total_steps == 50


def test_changes_must_fit_the_precisions():
    kinds = (P.INT4, P.INT4, P.INT8, P.FP16)
    assert [str(c.strategy) for c in PrecisionSchedule("p", kinds).changes] == ["immediate", "immediate"]
    with pytest.raises(ScheduleError, match=r"must be those of its precisions\. Got INT4 to INT8 at step 2 instead"):
        PrecisionSchedule("p", kinds, (PrecisionTransition.immediate(P.INT4, P.INT8, 2),))
    blends = (PrecisionTransition.gradual(P.INT4, P.INT8, 2, 2), PrecisionTransition.immediate(P.INT8, P.FP16, 3))
    with pytest.raises(InvalidTransition, match="must end by step 3"):
        PrecisionSchedule("p", kinds, blends)
    with pytest.raises(ScheduleError, match="at least one step"):
        PrecisionSchedule("p", ())


def altered(**parts):
    text = PrecisionSchedule.generate(ScheduleConfig(10, transition_strategy="gradual(2)")).to_json()
    data = json.loads(text)
    for key, value in parts.items():
        data[key] = value(data[key])
    return json.dumps(data)


@each(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        None,
        altered(format=lambda _: "gearshift plan 1"),
        altered(name=lambda _: 3),
        altered(precisions=lambda _: []),
        altered(precisions=lambda _: None),
        altered(precisions=lambda p: ["int5", *p[1:]]),
        altered(precisions=lambda p: [["int4"], *p[1:]]),
        altered(precisions=lambda p: ["fp16", *p[1:]]),
        altered(precisions=lambda p: p[:-3]),
        altered(total_steps=lambda n: n + 1),
        altered(changes=lambda c: c[1:]),
        altered(changes=lambda c: []),
        altered(changes=lambda c: [*c, c[-1]]),
        altered(changes=lambda c: [3]),
        altered(changes=lambda c: None),
        altered(changes=lambda c: [{**c[0], "blend": [0.9, 0.1]}, c[1]]),
        altered(changes=lambda c: [{**c[0], "start": "2"}, c[1]]),
        altered(changes=lambda c: [{**c[0], "strategy": "sudden"}, c[1]]),
        altered(changes=lambda c: [{**c[0], "strategy": "gradual(5)"}, c[1]]),
        altered(changes=lambda c: [{**c[0], "__import__": "os"}, c[1]]),
        altered(changes=lambda c: [{k: v for k, v in c[0].items() if k != "blend"}, c[1]]),
    ],
)
def test_altered_json_is_refused_in_one_sentence(text):
    with pytest.raises(ScheduleError, match="This is not the JSON of a precision schedule: ") as caught:
        PrecisionSchedule.from_json(text)
    assert "\n" not in str(caught.value) and isinstance(caught.value, AdaptiveError)
