"""Precision of the denoiser's arithmetic as a function of the denoising step.

>>> from gearshift.precision import quick_schedule
>>> round(quick_schedule("balanced", 50).estimated_speedup, 2)
1.43
"""

from gearshift.precision.capabilities import PrecisionCapabilities
from gearshift.precision.errors import (
    AdaptiveError,
    InvalidStep,
    InvalidTransition,
    MemoryConstraint,
    ProfileError,
    QualityConstraint,
    ScheduleError,
    UnsupportedPrecision,
)
from gearshift.precision.levels import Precision
from gearshift.precision.noise import default_log_snr, log_snr_of
from gearshift.precision.profile import PrecisionProfile, PrecisionZone, ProfilePreset
from gearshift.precision.schedule import (
    PrecisionSchedule,
    Result,
    ScheduleConfig,
    StepPrecision,
    quick_schedule,
    try_generate,
)
from gearshift.precision.transitions import PrecisionTransition, TransitionPlanner, TransitionStrategy

__all__ = [
    "AdaptiveError",
    "InvalidStep",
    "InvalidTransition",
    "MemoryConstraint",
    "Precision",
    "PrecisionCapabilities",
    "PrecisionProfile",
    "PrecisionSchedule",
    "PrecisionTransition",
    "PrecisionZone",
    "ProfileError",
    "ProfilePreset",
    "QualityConstraint",
    "Result",
    "ScheduleConfig",
    "ScheduleError",
    "StepPrecision",
    "TransitionPlanner",
    "TransitionStrategy",
    "UnsupportedPrecision",
    "default_log_snr",
    "log_snr_of",
    "quick_schedule",
    "try_generate",
]
