"""The course of a run: the steps of its scheduler, and which of them is the current one."""

from __future__ import annotations

import weakref
import zlib
from typing import Any

from gearshift.steps.noise_schedule import as_floats, coordinates
from gearshift.steps.times import ScheduleStep, TimestepMapping, close


class Course:
    """Where a run is on its scheduler's list of timesteps, and on the noise schedule. The scheduler is held weakly.

    Attributes:
        sampler: the scheduler's class.
        position: index of the current step in the scheduler's timesteps.
        step: steps since the first one of this run, from 0.
    """

    def __init__(self, scheduler: Any = None) -> None:
        self._scheduler = (lambda: None) if scheduler is None else weakref.ref(scheduler)
        self.sampler = type(scheduler).__name__
        self.position = 0
        self.step = 0
        self._timesteps: list[float] = []
        self._coordinates: list[float] = []
        self._places: list[ScheduleStep] = []
        self._whole = 0.0
        self._found_by: tuple[tuple[float, ...], TimestepMapping | None] = ((), None)

    @property
    def scheduler(self) -> Any:
        """The diffusers scheduler whose calls mark the steps; None where the caller marks them, or it is gone."""
        return self._scheduler()

    def start(self, values: tuple[float, ...], reading: TimestepMapping) -> bool:
        """Find the first step on the scheduler's list, at the first call of the denoiser.

        Args:
            values: the denoiser's time argument; none if it cannot be read.
            reading: how that is made of the scheduler's timesteps.

        Returns:
            Whether the place is sure: the scheduler tells it, or the argument does. Else it is taken to be the first.
        """
        self._read()
        begin = getattr(self.scheduler, "begin_index", None)
        places = self._places if begin is None else self._places[begin : begin + 1]
        self._found_by = values, reading
        found = reading.find(values, places) if values and places else None
        self.position = (found or 0) if begin is None else begin
        return begin is not None or found is not None

    def place(self, coordinates: list[float]) -> None:
        """Say where each step is on the noise schedule."""
        self._coordinates = coordinates

    @property
    def located(self) -> bool:
        return bool(self._timesteps)

    @property
    def key(self) -> str:
        """Names runs that go the same way: scheduler, steps and noise schedule."""
        path = ",".join(f"{x:.3f}" for x in self._coordinates)
        return f"{self.sampler} {len(self._timesteps)} from {self.first} {zlib.crc32(path.encode()):08x}"

    @property
    def first(self) -> int:
        """Position of the run's first step."""
        return self.position - self.step

    @property
    def run_steps(self) -> int:
        """Steps from the first of this run to the scheduler's last, 0 if that is not known."""
        return len(self._timesteps) - self.first if self._timesteps else 0

    @property
    def known_steps(self) -> int:
        """Steps of this run as the scheduler or the caller tells; 0 if nobody does."""
        return self.run_steps or len(self._coordinates)

    @property
    def noise_coordinate(self) -> float:
        """Where this step is on the noise schedule: log-SNR, sigma for flow matching, or the step number."""
        return self._coordinates[self.position] if self.position < len(self._coordinates) else float(self.step)

    @property
    def time(self) -> float | None:
        """Where this step is between noise (1) and sample (0); None if nothing tells.

        In the model's own timesteps where the scheduler lists those, else in steps.
        """
        if self.position < len(self._timesteps):
            if self._whole:
                return self._timesteps[self.position] / self._whole
            return 1 - self.position / len(self._timesteps)
        return 1 - self.step / self.known_steps if self.known_steps else None

    @property
    def progress(self) -> float:
        """The part of the run that is behind, from 0 to 1; 0 if nobody tells how long it is."""
        return min(self.step / max(self.known_steps - 1, 1), 1.0) if self.known_steps else 0.0

    @property
    def schedule_steps(self) -> int:
        """Steps of the whole noise schedule, those before the run's first one included; 0 if nobody tells."""
        return len(self._timesteps) or len(self._coordinates)

    def is_at(self, values: tuple[float, ...], reading: TimestepMapping) -> bool:
        """Whether a call with this time argument is one of the current step; True where that cannot be told."""
        if not self.located:
            self.start(values, reading)
        if self.position >= len(self._places):
            return False
        return not values or reading.agrees(values, self._places[self.position], first=self.step == 0)

    def goes_on_from(self, timestep: float | None) -> bool:
        """Whether the scheduler's step from this timestep is the run's current one; the first one tells the place.

        None: it cannot be read. Timesteps that the scheduler does not list tell nothing.
        """
        if not self.located:
            self._read()
        if timestep is None:
            return True
        offs = {i: abs(t - timestep) for i, t in enumerate(self._timesteps) if close(t, timestep)}
        if offs and self.step == 0:
            was, self.position = self.position, min(offs, key=lambda i: (offs[i], abs(i - self.position)))
            values, reading = self._found_by
            if self.position != was and reading is not None and values:
                reading.find(values, [self._places[self.position]])
        return not offs or self.position in offs

    def is_before(self, timestep: float | None) -> bool:
        """Whether this timestep is that of the step before and not the current one's."""
        if timestep is None or not self.step or self.position >= len(self._timesteps):
            return False
        current, before = self._timesteps[self.position], self._timesteps[self.position - 1]
        return close(before, timestep) and not close(current, timestep)

    def _read(self) -> None:
        """The scheduler's list of timesteps, and where each is on the noise schedule."""
        scheduler = self.scheduler
        listed = getattr(scheduler, "timesteps", None)
        if listed is None:
            return
        self._timesteps = as_floats(listed)
        self._coordinates = coordinates(scheduler, self._timesteps)
        trained = float(getattr(getattr(scheduler, "config", None), "num_train_timesteps", None) or 1000)
        sigmas = as_floats(getattr(scheduler, "sigmas", None))
        sigmas += [0.0] * (len(self._timesteps) - len(sigmas))
        self._places = [ScheduleStep(t, s, trained) for t, s in zip(self._timesteps, sigmas, strict=False)]
        least, most = min(self._timesteps, default=-1.0), max(self._timesteps, default=0.0)
        self._whole = next((w for w in (trained, 1.0) if least >= 0 and w / 2 <= most <= w), 0.0)
