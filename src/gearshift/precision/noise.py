"""How much noise is left at each step, as log-SNR: of a scheduler, or of the default noise schedule."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import lru_cache
from typing import Any

from gearshift.core.errors import told
from gearshift.precision.errors import ScheduleError

TRAIN_STEPS = 1000


@lru_cache(maxsize=8)
def default_log_snr(steps: int) -> tuple[float, ...]:
    """log-SNR of each step where no scheduler is given: Stable Diffusion's noise schedule.

    Its betas are scaled-linear, the squares of 1000 values from sqrt(0.00085) to sqrt(0.012); the steps are evenly
    spaced with the last training timestep first ('trailing' spacing). Sigma falls from 14.6.
    """
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    alpha, known = 1.0, []
    for t in range(TRAIN_STEPS):
        alpha *= 1 - (low + (high - low) * t / (TRAIN_STEPS - 1)) ** 2
        known.append(math.log(alpha / (1 - alpha)))
    return tuple(known[max(round(TRAIN_STEPS * (1 - i / steps)) - 1, 0)] for i in range(steps))


def log_snr_of(scheduler: Any, steps: int) -> tuple[float, ...]:
    """log-SNR of each step of a diffusers scheduler, as it is set or else set to this many steps; it is left as it is.

    Bounded to [-14, 14]. None: `default_log_snr`.

    Raises:
        ScheduleError: if it cannot be set to so many steps, or tells no noise levels.
    """
    if scheduler is None:
        return default_log_snr(steps)
    from gearshift.steps.noise_schedule import coordinates, is_flow

    kind = type(scheduler).__name__
    if len(scheduler.timesteps) != steps or getattr(scheduler, "num_inference_steps", steps) is None:
        scheduler = deepcopy(scheduler)
        try:
            scheduler.set_timesteps(steps)
        except (TypeError, ValueError) as error:
            raise ScheduleError(
                f"Call set_timesteps of {kind} with {steps} steps first: {told(error)}", steps
            ) from error
    times = [float(t) for t in scheduler.timesteps]
    if len(times) != steps:
        ask = f"call its set_timesteps first and give total_steps={len(times)}."
        raise ScheduleError(f"{kind} calls the denoiser {len(times)} times for {steps} steps; {ask}", steps, len(times))
    places = coordinates(scheduler, times)
    if not places:
        raise ScheduleError(f"{kind} has neither sigmas nor alphas_cumprod; use a profile in fractions.")
    if not is_flow(scheduler):
        return tuple(places)
    return tuple(min(max(2 * math.log(max(1 - s, 1e-9) / max(s, 1e-9)), -14.0), 14.0) for s in places)
