"""Very few denoising steps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe, BadValue
from gearshift.core.extras import installed, missing
from gearshift.core.facts import Facts, Family, Kind, Persist, Stage, Trait
from gearshift.core.folders import scratch
from gearshift.core.param import param
from gearshift.core.plain import PARTS, flag, whole
from gearshift.core.target import Written
from gearshift.models.calls import Hook, Hooked

SOURCE = "GEARSHIFT_HYPER"  # environment variable: a published adapter's file, or 'owner/name:file' on the hub
ADAPTER = "pytorch_lora_weights.safetensors"
STEPS, FEW = 4, 2
SCHEDULERS = {
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
}
RANK, RATE, EPOCHS = 64, 1e-3, 20


class Hyper(Algorithm):
    """Few-step sampling: apply a published adapter, or distil the pipeline itself into one (Hyper-SD).

    The environment variable GEARSHIFT_HYPER names a published adapter, such as Hyper-SD's: a file, or 'owner/name:file'
    on the hub. Its name or metadata tell its steps, its scheduler, its scale and whether it wants guidance. Without it
    the pipeline is distilled on the prompts in `data` (or on made-up ones) to 4 steps, or 2 with `aggressive`, guidance
    included. Calls then default to that many steps and to no guidance (but for adapters that want it); what a call says
    goes before both. The adapter is merged; one that was distilled is kept in a saved folder as diffusers reads it.
    """

    facts = Facts(
        family=Family.DISTILLER,
        stage=Stage.DISTILL,
        persist=Persist.WEIGHTS,
        needs={Trait.FLOAT_WEIGHTS, Trait.DENOISES},
        kinds={Kind.DIFFUSION},
    )
    aggressive: bool = param(False, choices=(True, False), help="distil to even fewer steps")
    adapter_scale: float = param(
        0.0, between=(0.0, 2.0), help="what a published adapter is multiplied by; 0: as its family is published"
    )
    scheduler: str = param(
        "auto", choices=("auto", "keep", *SCHEDULERS), help="of a published adapter; 'auto': its family's"
    )

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.models.adapters import adapter

        if not hasattr(model, "scheduler"):
            return [f"{self.name} needs a pipeline with a scheduler."]
        if isinstance(context.recipe.data, str):
            return [f"{self.name}: `data` is a list of prompts, not one prompt."]
        source = os.environ.get(SOURCE)
        if not source:
            return []
        if not hasattr(model, "load_lora_weights"):
            return [f"{type(model).__name__} takes no LoRA adapters, so none can be applied."]
        if not installed("peft"):
            return [f"{self.name}: {missing('peft', 'peft', 'A published adapter')}"]
        if self.scheduler in SCHEDULERS and not hasattr(model.scheduler, "alphas_cumprod"):
            return [f"{self.name}: {self.scheduler!r} is no scheduler for {type(model).__name__}, a flow model."]
        try:
            adapter(source)
        except BadValue as error:
            return [f"{self.name}: {error}"]
        return []

    saved_fields: ClassVar = {"parts": PARTS, "steps": whole(1, 10_000), "guided": flag}

    def apply(self, model: Any, context: Context) -> None:
        source, guided = os.environ.get(SOURCE), False
        steps = FEW if self.aggressive else STEPS
        if source:
            steps, guided = self._published(model, context, source, steps)
        else:
            if self.adapter_scale or self.scheduler != "auto":
                context.note(f"{SOURCE} names no published adapter, so adapter_scale and scheduler have no effect.")
            context.change(Rescheduled(model, trailing(model.scheduler)))
            self._distilled(model, context, steps)
        context.save(parts=[], steps=steps, guided=guided)
        context.change(Hooked(model, FewSteps(steps, guided)))

    def rebuild(self, model: Any, context: Context) -> None:
        saved = context.saved
        context.change(Hooked(model, FewSteps(saved["steps"], saved.get("guided", False))))

    def _published(self, model: Any, context: Context, source: str, steps: int) -> tuple[int, bool]:
        """Merge a published adapter, set the scheduler it was made for; its steps, and whether it wants guidance."""
        from gearshift.models.adapters import UNKNOWN, adapter, merge

        given = adapter(source)
        family = given.family or UNKNOWN
        scale = self.adapter_scale or family.scale
        change = Written(self.name, context.keep_original, "merged an adapter into the weights")
        for parameter, before in merge(model, given, scale):
            change.took(parameter, before)
        context.change(change)
        named = family.name if given.family else "of a method that its name does not tell"
        context.note(f"The adapter is {source} ({named}), merged at scale {scale:g}.")
        self._reschedule(model, context, family)
        if given.family is None and self.scheduler == "auto":
            context.note(f"The scheduler was set to {type(model.scheduler).__name__}; `scheduler` sets another.")
        return given.steps or steps, given.guided

    def _reschedule(self, model: Any, context: Context, family: Any) -> None:
        """Set a family's scheduler, or the one that the recipe names; flow models keep theirs."""
        from dataclasses import replace

        from gearshift.models.adapters import TRAILING, sampler

        if self.scheduler == "keep":
            return
        if not hasattr(model.scheduler, "alphas_cumprod"):
            context.note(f"The scheduler stays {type(model.scheduler).__name__}.")
            return
        if self.scheduler != "auto":
            family = replace(family, scheduler=SCHEDULERS[self.scheduler], settings=TRAILING)
        context.change(Rescheduled(model, sampler(family, model.scheduler.config)))

    def _distilled(self, model: Any, context: Context, steps: int) -> None:
        """Train an adapter, and merge it."""
        from gearshift.models.diffusers import denoisers
        from gearshift.training.diffusion import calls_of
        from gearshift.training.distill import SameEnd, segments
        from gearshift.training.run import adapted, merged, trained, updates
        from gearshift.training.trainer import Settings

        recipe, students = context.recipe, denoisers(model)
        calls = calls_of(model, recipe.data, recipe.batch_size, recipe.seed)
        if recipe.data is None:
            context.note("No prompts were given, so they were made up of words that the tokenizer knows.")
        training_samples = segments(model, calls, steps, recipe.seed)
        paths = adapted(model, students, context, RANK, 1.0, lambda found: found)
        settings = Settings(epochs=EPOCHS, rate=RATE, validate_every=EPOCHS / 10, seed=recipe.seed)
        trained(students, context, settings, SameEnd(students), updates(students, paths), training_samples)
        context.keep_file(ADAPTER, _written(students, paths))
        merged(students, context, paths)
        context.measured(steps=steps)


class FewSteps(Hook):
    """A call takes the steps that were distilled and no second pass for guidance, unless it says otherwise."""

    name = "hyper"

    def __init__(self, steps: int, guided: bool) -> None:
        self.steps, self.guided = steps, guided

    def before(self, pipe: Any, given: dict[str, Any]) -> dict[str, Any]:
        from gearshift.training.distill import unguided

        return {"num_inference_steps": self.steps, **({} if self.guided else unguided(pipe)), **given}


@dataclass(eq=False)
class Rescheduled(Change):
    """Another scheduler in a pipeline."""

    pipe: Any
    scheduler: Any
    held: Any = None

    def apply(self) -> None:
        self.held, self.pipe.scheduler = self.pipe.scheduler, self.scheduler

    def revert(self) -> None:
        self.scheduler, self.pipe.scheduler = self.pipe.scheduler, self.held


def trailing(scheduler: Any) -> Any:
    """A first-order, deterministic scheduler of the same noise, whose steps begin at the noisiest timestep.

    Raises:
        BadRecipe: for a scheduler of another kind of process.
    """
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler
    if hasattr(scheduler, "alphas_cumprod"):
        return DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False)
    raise BadRecipe([f"{type(scheduler).__name__} is none of the schedulers that steps can be distilled for."])


def _written(students: dict[str, Any], paths: dict[str, list[str]]) -> Path:
    """The adapter as a file that diffusers' `load_lora_weights` reads."""
    from safetensors.torch import save_file

    found = {}
    for part, names in paths.items():
        for name in names:
            update = students[part].get_submodule(name)
            found[f"{part}.{name}.lora_A.weight"] = update.down.detach().cpu().contiguous()
            found[f"{part}.{name}.lora_B.weight"] = (update.scale * update.up).detach().cpu().contiguous()
    path = scratch() / ADAPTER
    save_file(found, str(path))
    return path
