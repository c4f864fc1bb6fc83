"""The call that a plan is rehearsed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gearshift.core.boundary import calling
from gearshift.core.examples import first


def call_to_rehearse(model: Any, given: Any) -> Callable[[int], None] | None:
    """The call that the caller gave as data, with noise by a seed; None without one.

    Args:
        given: a list whose first item is a dict of the pipeline's arguments.
    """
    call = first(given)
    if not isinstance(call, Mapping) or hasattr(model, "forward"):
        return None
    import torch

    from gearshift.models.example import silent
    from gearshift.models.image_to_image import taking

    def rehearse(seed: int) -> None:
        with torch.random.fork_rng(), silent(model), calling(model, "the first item of data"):
            torch.manual_seed(seed)
            taking(model, call)(**call)

    return rehearse
