"""Precision as a function of the denoising step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.param import param
from gearshift.core.plain import dict_of, flag, text

if TYPE_CHECKING:
    from gearshift.precision.schedule import PrecisionSchedule

PRESETS = ("performance", "balanced", "quality", "low_vram", "conservative", "noise_adaptive")


class AdaptivePrecision(Algorithm):
    """Compute each denoising step in 4, 8 or 16 bits, as a profile or a measured plan says, from one nested weight.

    Linear layers and convolutions of the denoiser change gear from step to step (embedders, modulation, first and last
    projections stay as they are). With `profile='measured'` and `data` (a list whose first item is a dict of the
    pipeline's arguments) the plan is found by rehearsing that call: the cheapest that keeps `min_quality`, where the
    cost is time or the bytes of weights in use, and quality is one less the relative error of the final latent.
    """

    follows_gears: ClassVar[bool] = True
    saved_fields: ClassVar = {"weight_only": flag, "gears": dict_of(text())}
    facts = Facts(
        family=Family.PRECISION,
        stage=Stage.QUANTIZE,
        occupies={Slot.STEP_PRECISION, Slot.WEIGHT_FORMAT},
        needs={Trait.DENOISES, Trait.LINEAR, Trait.FLOAT_WEIGHTS},
        kinds={Kind.DIFFUSION},
    )
    profile: Any = param(
        "balanced",
        choices=(*PRESETS, "measured"),
        or_data="a gearshift.precision.PrecisionProfile",
        help="which steps run in which precision",
    )
    min_quality: float = param(0.9, between=(0.0, 1.0), help="least quality; a prior for presets, measured otherwise")
    transition_strategy: str = param(
        "immediate", choices=("immediate", "gradual", "step_aware"), help="how one precision gives way to the next"
    )
    high_precision: str = param(
        "auto", choices=("auto", "fp32", "bf16", "fp16"), help="the high gear; auto: what the denoiser was loaded in"
    )
    target: str = param("speed", choices=("speed", "memory"), help="what a measured plan spends least of")
    store: str = param(
        "original",
        choices=("original", "nested"),
        help="keep the original weights for the high gear, or the nested store alone",
    )

    def __post_init__(self) -> None:
        if hasattr(self.profile, "as_data"):
            object.__setattr__(self, "profile", self.profile.as_data())
        super().__post_init__()

    def check_together(self) -> list[str]:
        if not isinstance(self.profile, dict):
            return []
        from gearshift.precision.errors import AdaptiveError
        from gearshift.precision.profile import PrecisionProfile

        try:
            PrecisionProfile.of(self.profile).validate()
        except AdaptiveError as error:
            return [str(error)]
        return []

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.models.diffusers import denoisers
        from gearshift.precision.gears import high_gear

        found = []
        for module in denoisers(model).values():
            own = high_gear(module).value
            if self.high_precision not in ("auto", own):
                found.append(
                    f"The high gear is what the denoiser was loaded in, {own}; for {self.high_precision} load it with "
                    "that torch_dtype."
                )
        if self.profile == "measured" and not context.saved.get("gears") and context.recipe.data is None:
            found.append("profile='measured' needs `data`: a list whose first item is a dict of the call's arguments.")
        return found

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.planner import gear_search
        from gearshift.precision import gear_install

        recipe = context.recipe
        times = {} if context.saved else gear_install.measured_times(model, recipe.data, recipe.batch_size)
        weight_only = context.saved.get("weight_only", gear_install.int8_is_slow(times))
        controllers = gear_install.gear_up(
            model, context, self._schedule, self.store == "nested", self.target == "memory", weight_only
        )
        context.save(weight_only=weight_only)
        context.measured(**{f"seconds_{p.value}": took.now for p, took in times.items()})
        if self.store == "original":
            context.note(
                "The original weights stay beside the nested ones, so memory grows; store='nested' lets them go."
            )
        gear_install.tell_speed(context, self.target, times)
        found = context.saved.get("gears")
        if found:
            gear_install.bring_back(controllers, found)
            context.save(gears=found)
        elif self.profile == "measured":
            gear_search.find_gears(model, context, self.target, self.min_quality, controllers, times)

    def _schedule(self, steps: int, scheduler: Any) -> PrecisionSchedule:
        """The profile's schedule for a number of steps."""
        from gearshift.precision.profile import PrecisionProfile, ProfilePreset
        from gearshift.precision.schedule import PrecisionSchedule, ScheduleConfig

        own = PrecisionProfile.of(self.profile) if isinstance(self.profile, dict) else None
        config = ScheduleConfig(
            steps,
            preset=ProfilePreset.BALANCED if own else self.profile,
            custom_profile=own,
            min_quality=self.min_quality,
            transition_strategy=self.transition_strategy,
        )
        return PrecisionSchedule.generate(config, scheduler)
