"""Profiles: precision as a function of the part of the run that is done, of sigma, or of log-SNR."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby, pairwise
from typing import Any

from gearshift.core.errors import GearshiftError, UnknownName, quoted, told
from gearshift.core.plain import anything, fields, list_of, maybe, number, one_of, text
from gearshift.precision.errors import MemoryConstraint, ProfileError, QualityConstraint
from gearshift.precision.levels import Precision
from gearshift.precision.noise import TRAIN_STEPS, default_log_snr

TOLERANCE = 1e-9  # of a zone's bounds, so that 0.1 + 0.2 is 0.3
_BOUNDS = {"fraction": (0.0, 1.0), "sigma": (math.inf, 0.0), "log_snr": (-math.inf, math.inf)}
SHAPE = fields(
    {
        "name": text(most=1000),
        "zones": list_of(
            fields(
                {"start": anything, "end": anything, "precision": text(most=40)},
                {"rationale": text(most=1000), "unit": one_of(*_BOUNDS)},
            ),
            most=10_000,
        ),
    },
    {
        "description": text(most=1000),
        "quality_target": maybe(number()),
        "memory_target": maybe(number()),
    },
)


@dataclass(frozen=True)
class PrecisionZone:
    """One part of a run, [start, end), and its precision.

    Attributes:
        start, end: where the run enters and leaves it. In sigma the run goes down, so there start > end.
        unit: 'fraction' of the run, from 0 to 1; 'sigma', the standard deviation of noise over signal, from inf to 0;
            or 'log_snr' = -2 ln sigma, from -inf to inf. A flow-matching sigma s, in [0, 1], is s / (1 - s) here, so
            that a bound means the same noise for every scheduler.
        rationale: why, in words.

    Raises:
        ProfileError: if the zone is empty, runs backwards or leaves the range of its unit.
    """

    start: float
    end: float
    precision: Precision
    rationale: str = ""
    unit: str = "fraction"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision.parse(self.precision))
        if self.unit not in _BOUNDS:
            raise UnknownName("unit of a zone", self.unit, _BOUNDS)
        first, last = _BOUNDS[self.unit]
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (self.start, self.end)) or not (
            first <= self.start < self.end <= last or first >= self.start > self.end >= last
        ):
            ask = f"A zone in {self.unit} must go from its start to another end, from {first:g} towards {last:g}"
            raise ProfileError(f"{ask}. Got [{self.start!r}, {self.end!r}) instead.", self.start, self.end)

    def __lt__(self, other: PrecisionZone) -> bool:
        return self.start > other.start if self.unit == "sigma" else self.start < other.start

    def holds(self, place: float) -> bool:
        """Whether a place, in this zone's unit, is at or after its start; the last such zone is the one it is in."""
        slack = TOLERANCE * max(1.0, abs(place)) if math.isfinite(place) else 0.0
        return place <= self.start + slack if self.unit == "sigma" else place >= self.start - slack


@dataclass
class PrecisionProfile:
    """Zones that together cover a run, sorted from its start to its end; all of one unit.

    Attributes:
        quality_target: lowest expected quality of the whole, checked by `validate`; None: any.
        memory_target: highest mean of the weights over those at FP16, checked by `validate`; None: any.
    """

    name: str
    description: str = ""
    zones: list[PrecisionZone] = field(default_factory=list)
    quality_target: float | None = None
    memory_target: float | None = None

    def __post_init__(self) -> None:
        zones, self.zones = self.zones, []
        for zone in zones:
            self.add_zone(zone)

    @property
    def unit(self) -> str:
        """The unit of the zones."""
        return self.zones[0].unit if self.zones else "fraction"

    def add_zone(self, zone: PrecisionZone) -> PrecisionProfile:
        """Put a zone in its place; gaps and overlaps are `validate`'s to find. Gives the profile, for chaining.

        Raises:
            ProfileError: if the zone is not written in the unit of the others.
        """
        if self.zones and zone.unit != self.unit:
            fault = f"The zones of profile {self.name!r} must all be in {self.unit}. Got one in {zone.unit} instead."
            raise ProfileError(fault, zone.start, zone.end)
        insort(self.zones, zone)
        return self

    def as_data(self) -> dict[str, Any]:
        """Plain data that `of` reads back."""
        zones = [{**vars(z), "precision": z.precision.value} for z in self.zones]
        return {**vars(self), "zones": zones}

    @classmethod
    def of(cls, data: dict[str, Any]) -> PrecisionProfile:
        """Read what `as_data` wrote.

        Raises:
            ProfileError: if it is something else.
        """
        try:
            read = SHAPE(data, "")
            return cls(**{**read, "zones": [PrecisionZone(**zone) for zone in read["zones"]]})
        except (GearshiftError, ValueError) as error:
            raise ProfileError(f"This is not the data of a profile: {told(error)}.") from error

    def validate(self) -> None:
        """Check that the zones cover the run with no gap and no overlap, and that the targets are met.

        Raises:
            ProfileError: at the first gap or overlap.
            QualityConstraint, MemoryConstraint: if a target is missed.
        """
        first, last = _BOUNDS[self.unit]
        ends = [first, *(z.end for z in self.zones)]
        starts = [*(z.start for z in self.zones), last]
        for end, start in zip(ends, starts, strict=True):
            if end != start and not abs(end - start) <= TOLERANCE:
                fault = "a gap" if (start > end) == (last > first) else "an overlap"
                where = f"between {min(end, start):g} and {max(end, start):g}"
                ask = f"zones must cover {first:g} to {last:g} once"
                raise ProfileError(f"Profile {self.name!r} has {fault} {where} ({self.unit}); {ask}.", end, start)
        who, advice = f"Profile {self.name!r}", "Change its zones or its target."
        if self.quality_target is not None and self.quality() < self.quality_target - TOLERANCE:
            raise QualityConstraint(self.quality(), self.quality_target, who, advice)
        if self.memory_target is not None and self.memory_ratio() > self.memory_target + TOLERANCE:
            raise MemoryConstraint(self.memory_ratio(), self.memory_target, who, advice, "of the FP16 weights")

    def precision_at(self, fraction: float) -> Precision:
        """The precision at a part of the run, from 0 to 1 (1 is the end of the last zone).

        Zones in sigma or log-SNR are placed on the default noise schedule, see `default_log_snr`.

        Raises:
            ProfileError: outside [0, 1], or where no zone is.
        """
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
            raise ProfileError(f"A part of the run must be a number from 0 to 1. Got {quoted(fraction)} instead.")
        if self.unit == "fraction":
            return self.at(fraction)
        path = default_log_snr(TRAIN_STEPS)
        return self.at_log_snr(path[min(int(fraction * TRAIN_STEPS), TRAIN_STEPS - 1)])

    def at(self, place: float) -> Precision:
        """The precision at a place in the zones' own unit.

        Raises:
            ProfileError: where no zone is.
        """
        zone = next((z for z in reversed(self.zones) if z.holds(place)), None)
        if zone is None or _left(zone, place):
            raise ProfileError(f"Profile {self.name!r} has no zone at {place:g} ({self.unit}); add one there.", place)
        return zone.precision

    def at_log_snr(self, log_snr: float) -> Precision:
        """The precision at a log-SNR, for zones in sigma or log-SNR."""
        return self.at(math.exp(-log_snr / 2) if self.unit == "sigma" else log_snr)

    def on_path(self, log_snr: Sequence[float]) -> PrecisionProfile:
        """This profile in fractions, for a run whose steps have these log-SNR; bounds fall on steps."""
        if self.unit == "fraction":
            return self
        ordered = [self.at_log_snr(x) for x in log_snr]
        profile = PrecisionProfile(self.name, self.description)
        for precision, steps in groupby(range(len(ordered)), key=ordered.__getitem__):
            mine = list(steps)
            profile.add_zone(PrecisionZone(mine[0] / len(ordered), (mine[-1] + 1) / len(ordered), precision))
        return profile

    def memory_ratio(self) -> float:
        """Mean of the weights' bytes over those at FP16, by parts of the run."""
        return sum((z.end - z.start) * z.precision.memory_ratio() for z in self._fractions())

    def quality(self) -> float:
        """Mean of the nominal quality, by parts of the run."""
        return sum((z.end - z.start) * z.precision.nominal_quality for z in self._fractions())

    def transition_count(self) -> int:
        """How often the precision changes."""
        kinds = [z.precision for z in self.zones]
        return sum(a is not b for a, b in pairwise(kinds))

    def _fractions(self) -> list[PrecisionZone]:
        return self.zones if self.unit == "fraction" else self.on_path(default_log_snr(TRAIN_STEPS)).zones


def _left(zone: PrecisionZone, place: float) -> bool:
    """Whether a place is behind a zone's end; the end of the run is in its last zone."""
    if zone.end == _BOUNDS[zone.unit][1]:
        return False
    return place < zone.end - TOLERANCE if zone.unit == "sigma" else place > zone.end + TOLERANCE


_RATIONALE = {
    Precision.INT4: "assumes that the noisiest steps tolerate 4 bits; measure it on the model",
    Precision.INT8: "8 bits where the layout is set and detail is not",
    Precision.FP16: "detail is made in the last steps",
}
_PRESETS: dict[str, tuple[str, float, float, float | None, float | None]] = {
    # name: what it is for, end of INT4, end of INT8, quality target, memory target
    "performance": ("The fastest: INT4 to 40 % of the run, INT8 to 70 %, then FP16.", 0.4, 0.7, 0.95, 0.6),
    "balanced": ("Speed and quality: INT4 to 20 % of the run, INT8 to 50 %, then FP16.", 0.2, 0.5, 0.97, 0.75),
    "quality": ("Close to FP16: INT8 to 15 % of the run, then FP16.", 0.0, 0.15, 0.99, 0.95),
    "low_vram": ("The fewest bytes: INT4 to 50 % of the run, INT8 to 85 %, then FP16.", 0.5, 0.85, 0.94, 0.5),
    "conservative": ("Nearly FP16: INT8 to 10 % of the run, then FP16.", 0.0, 0.1, 0.995, 0.975),
    "noise_adaptive": ("By noise: INT4 above sigma 5.0, INT8 from there to 0.5, then FP16.", 5.0, 0.5, None, None),
}


class ProfilePreset(Enum):
    """Ready-made profiles, before anything was measured."""

    PERFORMANCE = "performance"
    BALANCED = "balanced"
    QUALITY = "quality"
    LOW_VRAM = "low_vram"
    CONSERVATIVE = "conservative"
    NOISE_ADAPTIVE = "noise_adaptive"

    @classmethod
    def parse(cls, name: object) -> ProfilePreset:
        """The preset of this name.

        Raises:
            UnknownName: with the nearest names.
        """
        if isinstance(name, cls):
            return name
        if name not in [p.value for p in cls]:
            raise UnknownName("preset", name, [p.value for p in cls])
        return cls(name)

    @classmethod
    def all(cls) -> list[ProfilePreset]:
        """Every preset."""
        return list(cls)

    @property
    def description(self) -> str:
        """What it is for, in one line."""
        return _PRESETS[self.value][0]

    def build(self) -> PrecisionProfile:
        """Its profile, a new one each time."""
        description, *middle, quality, memory = _PRESETS[self.value]
        unit = "sigma" if self is ProfilePreset.NOISE_ADAPTIVE else "fraction"
        first, last = _BOUNDS[unit]
        profile = PrecisionProfile(self.value, description, quality_target=quality, memory_target=memory)
        bounds = [first, *middle, last]
        for start, end, precision in zip(bounds, bounds[1:], _RATIONALE, strict=False):
            if start != end:
                profile.add_zone(PrecisionZone(start, end, precision, _RATIONALE[precision], unit))
        return profile
