"""Where the steps of a scheduler are on the noise schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def as_floats(values: Any) -> list[float]:
    """A tensor, an array or a list of numbers as floats, read from the device at once; none for None."""
    if values is None:
        return []
    return [float(v) for v in (values.tolist() if hasattr(values, "tolist") else values)]


def coordinates(scheduler: Any, timesteps: list[float]) -> list[float]:
    """The coordinate in which outputs are extrapolated, for each timestep; empty if the scheduler tells nothing.

    log-SNR for diffusion schedules; sigma for flow matching, whose log-SNR is infinite at its ends.
    """
    sigmas = as_floats(getattr(scheduler, "sigmas", None))
    if sigmas and len(sigmas) >= len(timesteps):
        values = sigmas[: len(timesteps)]
        return values if is_flow(scheduler) else [_bounded(-2 * math.log(max(s, 1e-9))) for s in values]
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        return []
    snr: Callable[[float], float] = lambda a: math.log(max(a, 1e-9) / max(1 - a, 1e-9))  # noqa: E731
    return [_bounded(snr(float(alphas[min(max(int(t), 0), len(alphas) - 1)]))) for t in timesteps]


def _bounded(log_snr: float) -> float:
    """Zero-terminal-SNR schedules begin at minus infinity."""
    return min(max(log_snr, -14.0), 14.0)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler samples by flow matching."""
    config = getattr(scheduler, "config", {})
    return "FlowMatch" in type(scheduler).__name__ or bool(
        config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    )
