"""Compute the denoiser every few steps."""

from __future__ import annotations

from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.param import param


class Periodic(Algorithm):
    """Compute the denoiser every few steps and fill in the others."""

    facts = Facts(
        family=Family.CACHER,
        stage=Stage.STEPS,
        occupies={Slot.STEP_SKIPPING},
        needs={Trait.DENOISES},
        kinds={Kind.DIFFUSION},
    )
    cache_interval: int = param(2, choices=range(1, 8), help="steps between computations; 1 turns caching off")
    start_step: int = param(2, choices=range(0, 11), help="steps computed before any is filled in")
    cache_mode: str = param(
        "default",
        choices=("default", "taylor"),
        help="fill in by repeating the last output ('default') or by extrapolating the last two ('taylor')",
    )
    custom_model: bool = param(
        False,
        choices=(True, False),
        help="the given module is the denoiser of a loop of the caller's own, whose steps `gearshift.sampling` marks",
    )

    def vouches(self) -> frozenset[Trait]:
        return frozenset({Trait.DENOISES}) if self.custom_model else frozenset()

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.steps.install import cache
        from gearshift.steps.predict import by_mode
        from gearshift.steps.site import backbone
        from gearshift.steps.trigger import Every

        cache(model, context, backbone, Every(self.cache_interval, self.start_step), by_mode(self.cache_mode))
