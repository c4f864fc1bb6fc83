"""Skip work across denoising steps."""

from __future__ import annotations

from typing import Any

from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.param import param
from gearshift.core.plain import anything, dict_of, text

VOUCHED = frozenset({Trait.DENOISES})
PLAN_FIELDS = {"schedules": dict_of(dict_of(anything)), "plan": text()}  # a schedule reads its own data


def cacher_facts(*needs: Trait) -> Facts:
    """What every cacher declares: it decides which steps are computed, on a denoiser that may need more traits."""
    return Facts(
        family=Family.CACHER,
        stage=Stage.STEPS,
        occupies={Slot.STEP_SKIPPING},
        needs={Trait.DENOISES, *needs},
        kinds={Kind.DIFFUSION},
    )


def interval_param(most: int) -> Any:
    """Steps between computations."""
    return param(2, choices=range(1, most + 1), help="steps between computations; 1 turns caching off")


def attention_param() -> Any:
    """Steps between computations of attention."""
    return param(
        2, choices=range(1, 6), help="steps between computations of the spatial attention; 1 turns caching off"
    )


def start_param() -> Any:
    """Steps before anything is filled in."""
    return param(2, choices=range(0, 11), help="steps computed before any is reused")


def mode_param() -> Any:
    """How a cacher of the denoiser's output fills in."""
    return param(
        "default",
        choices=("default", "taylor"),
        help="on skipped steps repeat the last output ('default') or extrapolate the last two ('taylor')",
    )


def speed_param() -> Any:
    """The speed that a plan is to reach."""
    return param(0.5, between=(0.0, 1.0), help="wanted time as a fraction of the uncached time; smaller is faster")


def guard_param() -> Any:
    """Whether runs of a plan are guarded."""
    return param(
        True,
        choices=(True, False),
        help="compute a few more steps in runs that go another way than those seen while planning",
    )


def custom_param() -> Any:
    """Whether the caller vouches for the model; `assumed_traits` then answers with `VOUCHED`."""
    return param(
        False,
        choices=(True, False),
        help="the given module is the denoiser of a loop of the caller's own, whose steps `gearshift.sampling` marks",
    )
