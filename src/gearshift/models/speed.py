"""Whether a model as a whole became faster: one call, timed before and after."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gearshift.core.errors import GearshiftWarning
from gearshift.core.recipe import Recipe
from gearshift.core.record import record_of
from gearshift.models.example import example_call

REPEATS = 3


def verified(model: Any, recipe: Recipe, apply: Callable[[], Any]) -> Any:
    """Time an example call, apply, time it again, and put both on the record.

    Warns if the model is slower than before, or if nothing is known that it could be called with.
    """
    import warnings

    before = fastest_call(example_call(model, recipe.data, recipe.batch_size))
    made = apply()
    after = fastest_call(example_call(made, recipe.data, recipe.batch_size))
    record = record_of(made)
    if record is None or before is None or after is None:
        warnings.warn(
            "The speed could not be verified: no call of this model is known; give `data` whose first item is a dict "
            "of its arguments.",
            GearshiftWarning,
            stacklevel=3,
        )
        return made
    record.figures.update(seconds_before=before, seconds_after=after, speed=before / after)
    if after > before:
        warnings.warn(
            f"{recipe} made a call {after / before:.2f} times as long as before on this machine; the status of each "
            "algorithm says what it measured.",
            GearshiftWarning,
            stacklevel=3,
        )
    return made


def fastest_call(call: Callable[[], Any] | None) -> float | None:
    """Wall-clock seconds of the fastest of some calls after one to warm up; None without a call."""
    if call is None:
        return None
    once(call)
    return min(once(call) for _ in range(REPEATS))


def once(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call without gradients, with what it put on the GPU's queue."""
    import torch

    start = time.perf_counter()
    with torch.no_grad():
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
