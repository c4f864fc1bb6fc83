"""Profiles: zones that cover a run."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each

from gearshift.core.errors import UnknownName
from gearshift.precision import (
    MemoryConstraint,
    Precision,
    PrecisionProfile,
    PrecisionZone,
    ProfileError,
    ProfilePreset,
    QualityConstraint,
    ScheduleError,
    default_log_snr,
    log_snr_of,
)

P = Precision
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)

BOUNDS = {
    "performance": [(0.4, P.INT4), (0.7, P.INT8), (1.0, P.FP16)],
    "balanced": [(0.2, P.INT4), (0.5, P.INT8), (1.0, P.FP16)],
    "quality": [(0.15, P.INT8), (1.0, P.FP16)],
    "low_vram": [(0.5, P.INT4), (0.85, P.INT8), (1.0, P.FP16)],
    "conservative": [(0.1, P.INT8), (1.0, P.FP16)],
    "noise_adaptive": [(5.0, P.INT4), (0.5, P.INT8), (0.0, P.FP16)],
}


@st.composite
def profiles(draw):
    """A profile in fractions that covers the run."""
    inner = draw(st.lists(st.integers(1, 99), max_size=6, unique=True))
    bounds = [0, *sorted(inner), 100]
    kinds = draw(st.lists(st.sampled_from(list(P)), min_size=len(bounds) - 1, max_size=len(bounds) - 1))
    zones = [PrecisionZone(a / 100, b / 100, p) for a, b, p in zip(bounds, bounds[1:], kinds, strict=False)]
    return PrecisionProfile("drawn", zones=draw(st.permutations(zones)))


@each("preset", ProfilePreset.all())
def test_presets_hold_and_have_the_documented_bounds(preset):
    profile = preset.build()
    profile.validate()
    assert [(z.end, z.precision) for z in profile.zones] == BOUNDS[preset.value]
    assert all(z.rationale for z in profile.zones) and preset.description == profile.description
    assert profile.transition_count() == len(profile.zones) - 1


def test_there_are_six_presets_by_name():
    assert [ProfilePreset.parse(name).value for name in BOUNDS] == [p.value for p in ProfilePreset.all()]
    with pytest.raises(UnknownName, match="did you mean 'balanced'"):
        ProfilePreset.parse("balancd")


def test_each_build_is_a_new_profile():
    spoilt = ProfilePreset.BALANCED.build()
    spoilt.zones.clear()
    again = ProfilePreset.BALANCED.build()
    again.validate()
    assert len(again.zones) == 3 and not spoilt.zones


def test_means_of_balanced():
    profile = ProfilePreset.BALANCED.build()
    assert profile.memory_ratio() == pytest.approx(0.2 * 0.25 + 0.3 * 0.5 + 0.5)
    assert profile.quality() == pytest.approx(0.2 * 0.92 + 0.3 * 0.97 + 0.5 * 0.998)


@quick
@given(profiles())
def test_any_cover_holds_whatever_the_order_of_its_zones(profile):
    profile.validate()
    assert [z.start for z in profile.zones] == sorted(z.start for z in profile.zones)
    for zone in profile.zones:
        assert profile.precision_at(zone.start) is zone.precision
        assert profile.precision_at((zone.start + zone.end) / 2) is zone.precision
    kinds = [profile.precision_at(i / 100) for i in range(100)]
    assert profile.memory_ratio() == pytest.approx(sum(p.memory_ratio() for p in kinds) / 100)
    assert profile.quality() == pytest.approx(sum(p.nominal_quality for p in kinds) / 100)
    assert profile.transition_count() == sum(a is not b for a, b in pairwise(kinds))


@quick
@given(profiles(), st.data())
def test_a_missing_or_a_longer_zone_is_found(profile, data):
    i = data.draw(st.integers(0, len(profile.zones) - 1))
    removed = profile.zones.pop(i)
    with pytest.raises(ProfileError, match="gap") as caught:
        profile.validate()
    assert {caught.value.start, caught.value.end} == {removed.start, removed.end}
    with pytest.raises(ProfileError, match="no zone"):
        profile.precision_at((removed.start + removed.end) / 2)
    profile.add_zone(removed).add_zone(removed)
    with pytest.raises(ProfileError, match="overlap"):
        profile.validate()


def test_a_bound_that_was_summed_up_is_still_that_bound():
    profile = (
        PrecisionProfile("p").add_zone(PrecisionZone(0, 0.1 + 0.2, "int4")).add_zone(PrecisionZone(0.3, 1, "fp16"))
    )
    profile.validate()
    assert (
        PrecisionProfile(
            "p", zones=[PrecisionZone(0, 0.1 + 0.2, "int4"), PrecisionZone(0.1 + 0.2, 1, "fp16")]
        ).precision_at(3 / 10)
        is P.FP16
    )


@each(
    ("start", "end", "unit"),
    [
        (0.5, 0.5, "fraction"),
        (0.5, 0.2, "fraction"),
        (-0.1, 0.2, "fraction"),
        (0.5, 1.1, "fraction"),
        (math.nan, 1, "fraction"),
        ("0", 1, "fraction"),
        (False, True, "fraction"),
        (0.5, 5.0, "sigma"),
        (5.0, -1.0, "sigma"),
        (1.0, -1.0, "log_snr"),
    ],
)
def test_empty_or_backward_zones_are_refused(start, end, unit):
    with pytest.raises(ProfileError, match=f"A zone in {unit} must go from its start"):
        PrecisionZone(start, end, P.INT8, unit=unit)


def test_units_are_known_and_not_mixed():
    with pytest.raises(UnknownName, match="did you mean 'sigma'"):
        PrecisionZone(0, 1, P.INT8, unit="sigmas")
    profile = PrecisionProfile("p", zones=[PrecisionZone(0, 1, P.INT8)])
    with pytest.raises(ProfileError, match="must all be in fraction"):
        profile.add_zone(PrecisionZone(5.0, 0.0, P.FP16, unit="sigma"))


@each("fraction", [-0.1, 1.1, math.nan, "0.5", True, None])
def test_a_part_of_the_run_is_from_0_to_1(fraction):
    with pytest.raises(ProfileError, match="from 0 to 1"):
        ProfilePreset.BALANCED.build().precision_at(fraction)


def test_the_end_of_the_run_is_in_its_last_zone():
    assert ProfilePreset.BALANCED.build().precision_at(1) is P.FP16


def test_sigma_and_log_snr_say_the_same():
    one = ProfilePreset.NOISE_ADAPTIVE.build()
    bounds = [-math.inf, -2 * math.log(5), -2 * math.log(0.5), math.inf]
    kinds = (P.INT4, P.INT8, P.FP16)
    other = PrecisionProfile("log-SNR")
    for start, end, p in zip(bounds, bounds[1:], kinds, strict=False):
        other.add_zone(PrecisionZone(start, end, p, unit="log_snr"))
    other.validate()
    for x in [-14, -4, -3.3, -3.2, 0, 1.38, 1.39, 14]:
        assert one.at_log_snr(x) is other.at_log_snr(x)
    assert one.memory_ratio() == other.memory_ratio() and one.precision_at(0.9) is other.precision_at(0.9) is P.FP16


def test_the_default_noise_is_that_of_stable_diffusion():
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(50)
    sigmas = [math.exp(-x / 2) for x in default_log_snr(50)]
    assert sigmas == pytest.approx([float(s) for s in scheduler.sigmas[:50]], rel=1e-3)


def test_a_scheduler_that_needs_more_than_a_number_of_steps():
    from diffusers import FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ScheduleError, match="Call set_timesteps of FlowMatchEulerDiscreteScheduler with 20 steps"):
        log_snr_of(scheduler, 20)
    scheduler.set_timesteps(20, mu=0.8)
    assert len(log_snr_of(scheduler, 20)) == 20
    with pytest.raises(ScheduleError, match=r"calls the denoiser 39 times for 20 steps.*total_steps=39"):
        log_snr_of(HeunDiscreteScheduler(), 20)


def test_targets_are_checked():
    profile = ProfilePreset.BALANCED.build()
    profile.quality_target = 0.99
    with pytest.raises(QualityConstraint, match=r"0\.9740, below 0\.9900") as caught:
        profile.validate()
    assert (caught.value.quality, caught.value.min_quality) == (pytest.approx(0.974), 0.99)
    profile.quality_target, profile.memory_target = None, 0.5
    with pytest.raises(MemoryConstraint, match="of the FP16 weights") as caught:
        profile.validate()
    assert (caught.value.needed, caught.value.available) == (pytest.approx(0.7), 0.5)
