"""Find the steps to compute for a wanted speed, and extrapolate on the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gearshift.algorithms.cachers import cacher_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.param import param

EVERY_STEP = range(1_000_000)


class TaylorAuto(Algorithm):
    """Find the schedule of computed steps that reaches a wanted speed with least loss; extrapolate on the others.

    The schedule is a property of the model, the sampler and the number of steps. It is found from one fully computed
    run. With `data` (a list whose first item is a dict of the pipeline's arguments, prompts and steps among them) that
    run and a few more that prove the schedule happen while optimizing. Without, the first call with a sampler and a
    number of steps is computed whole and recorded, and calls after it follow the schedule.
    """

    facts = cacher_facts()
    speed_factor: float = param(
        0.5, between=(0.0, 1.0), help="wanted time as a fraction of the uncached time; smaller is faster"
    )
    order: int = param(1, choices=range(1, 5), help="order of the expansion")

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.planner.recording import Recording
        from gearshift.steps.install import cache
        from gearshift.steps.predict import Taylor
        from gearshift.steps.site import backbone
        from gearshift.steps.trigger import Planned

        plans = context.saved.get("plans", {})
        context.save(plans=plans)
        predictor = Taylor(self.order)
        trigger = Planned(Recording, partial(self._plan, predictor), plans)
        cache(model, context, backbone, trigger, predictor)
        call = _call(model, context.recipe.data)
        if call is not None and not plans:
            self._plan_now(call, trigger, predictor, context)

    def _plan(self, predictor: Any, recording: Any) -> list[int]:
        """The schedule for a call that was recorded as it came."""
        from gearshift.planner.plan import count_for, guess

        found = guess(recording, count_for(recording, self.speed_factor), predictor)
        _say(f"{self.name} will compute {len(found.computed)} of {recording.steps} steps in calls like this one.")
        return found.computed

    def _plan_now(self, call: Callable[[], None], trigger: Any, predictor: Any, context: Context) -> None:
        """Record the given call, find the schedule, and prove it by running its rivals."""
        from gearshift.planner.plan import count_for, prove

        def run(computed: Sequence[int]) -> Any:
            trigger.following = computed
            call()
            return trigger.newest[1]

        try:
            run(EVERY_STEP)  # the first call of a pipeline is slower than those that follow
            start = time.perf_counter()
            recording = run(EVERY_STEP)
            full = time.perf_counter() - start
            key, _ = trigger.newest
            count = count_for(recording, self.speed_factor, outside=full - sum(recording.seconds))
            seconds = 4 * full * count / recording.steps
            _say(f"{self.name} is planning {count} of {recording.steps} steps, which takes about {seconds:.0f} s.")
            found = prove(recording, count, predictor, run)
        finally:
            trigger.following = trigger.newest = None
        trigger.plans[key] = found.computed
        context.measured(
            computed_steps=f"{len(found.computed)} of {recording.steps}",
            relative_error_of_the_latent=found.error,
            fraction_of_time=found.seconds / full,
        )


def _call(model: Any, data: Any) -> Callable[[], None] | None:
    """The pipeline's call that the caller gave as data, always with the same noise; None without one."""
    given = next(iter(data), None) if data is not None else None
    if not isinstance(given, Mapping) or hasattr(model, "forward"):
        return None
    import torch

    def call() -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model(**given)

    return call


def _say(sentence: str) -> None:
    print(f"gearshift: {sentence}", file=sys.stderr)
