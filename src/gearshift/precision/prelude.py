"""The common five: `from gearshift.precision.prelude import *`."""

from gearshift.precision.levels import Precision
from gearshift.precision.profile import PrecisionProfile, ProfilePreset
from gearshift.precision.schedule import PrecisionSchedule, Result

__all__ = ["Precision", "PrecisionProfile", "PrecisionSchedule", "ProfilePreset", "Result"]
