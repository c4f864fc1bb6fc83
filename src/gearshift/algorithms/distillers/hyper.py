"""Very few denoising steps."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe
from gearshift.core.facts import Facts, Family, Kind, Persist, Stage, Trait
from gearshift.core.param import param
from gearshift.models.calls import Hook, Hooked

SOURCE = "GEARSHIFT_HYPER"  # environment variable: a published adapter's file, or 'owner/name:file' on the hub
ADAPTER = "pytorch_lora_weights.safetensors"
STEPS, FEW = 4, 2
RANK, RATE, EPOCHS = 64, 1e-3, 20


class Hyper(Algorithm):
    """Few-step sampling: apply a published adapter, or distil the pipeline itself into one (Hyper-SD).

    The environment variable GEARSHIFT_HYPER names a published adapter, such as Hyper-SD's: a file, or 'owner/name:file'
    on the hub; the number of steps is read from its name. Without it the pipeline is distilled on the prompts in `data`
    (or on made-up ones) to 4 steps, or 2 with `aggressive`, guidance included. Calls then default to that many steps
    and run without guidance. The adapter is merged, and kept in a saved folder as diffusers reads it.
    """

    facts = Facts(
        family=Family.DISTILLER,
        stage=Stage.DISTILL,
        persist=Persist.WEIGHTS,
        needs={Trait.FLOAT_WEIGHTS, Trait.DENOISES},
        kinds={Kind.DIFFUSION},
    )
    aggressive: bool = param(False, choices=(True, False), help="distil to even fewer steps")

    def check_model(self, model: Any, context: Context) -> list[str]:
        if not hasattr(model, "scheduler"):
            return [f"{self.name} needs a pipeline with a scheduler."]
        if isinstance(context.recipe.data, str):
            return [f"{self.name}: `data` is a list of prompts, not one prompt."]
        return []

    def apply(self, model: Any, context: Context) -> None:
        source = os.environ.get(SOURCE)
        steps = FEW if self.aggressive else STEPS
        if source:
            steps = self._published(model, context, source, steps)
        else:
            context.change(Rescheduled(model, trailing(model.scheduler)))
            self._distilled(model, context, steps)
        context.save(parts=[], steps=steps)
        context.change(Hooked(model, FewSteps(steps)))

    def rebuild(self, model: Any, context: Context) -> None:
        context.change(Hooked(model, FewSteps(context.saved["steps"])))

    def _published(self, model: Any, context: Context, source: str, steps: int) -> int:
        """A published adapter, merged, with the scheduler that it was made for; the steps that its name says."""
        from diffusers import TCDScheduler

        repo, _, file = source.partition(":")
        if not hasattr(model, "load_lora_weights"):
            raise BadRecipe([f"{type(model).__name__} takes no LoRA adapters, so none can be applied."])
        if Path(source).is_file():
            model.load_lora_weights(str(Path(source).parent), weight_name=Path(source).name)
        else:
            model.load_lora_weights(repo, weight_name=file or None)
        model.fuse_lora()
        model.unload_lora_weights()
        context.change(Fused(self.name))
        if hasattr(model.scheduler, "alphas_cumprod"):
            context.change(Rescheduled(model, TCDScheduler.from_config(model.scheduler.config)))
        named = re.search(r"(\d+)[-_]?step", Path(source).name)
        context.note(f"The adapter is {source}.")
        return int(named[1]) if named else steps

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
        lessons = segments(model, calls, steps, recipe.seed)
        paths = adapted(model, students, context, RANK, 1.0, lambda found: found)
        settings = Settings(epochs=EPOCHS, rate=RATE, validate_every=EPOCHS / 10, seed=recipe.seed)
        trained(students, context, settings, SameEnd(students), updates(students, paths), lessons)
        context.keep_file(ADAPTER, _written(students, paths))
        merged(students, context, paths)
        context.measured(steps=steps)


class FewSteps(Hook):
    """A call takes the steps that were distilled, unless it says otherwise, and no second pass for guidance."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def before(self, pipe: Any, given: dict[str, Any]) -> dict[str, Any]:
        from gearshift.training.distill import unguided

        return {"num_inference_steps": self.steps, **given, **unguided(pipe)}


@dataclass(eq=False)
class Rescheduled:
    """Another scheduler in a pipeline."""

    pipe: Any
    scheduler: Any
    held: Any = None

    def lay(self) -> None:
        self.held, self.pipe.scheduler = self.pipe.scheduler, self.scheduler

    def lift(self) -> None:
        self.scheduler, self.pipe.scheduler = self.pipe.scheduler, self.held

    def why_not(self) -> None:
        return None


@dataclass(eq=False)
class Fused:
    """An adapter that diffusers merged into the weights."""

    by: str

    def lay(self) -> None:
        """diffusers did it."""

    def lift(self) -> None:
        """Never reached: `why_not` gives the reason."""

    def why_not(self) -> str:
        return f"{self.by} merged an adapter into the weights; load the original again to have it back."


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

    from gearshift.core.folders import scratch

    found = {}
    for part, names in paths.items():
        for name in names:
            update = students[part].get_submodule(name)
            found[f"{part}.{name}.lora_A.weight"] = update.down.detach().cpu().contiguous()
            found[f"{part}.{name}.lora_B.weight"] = (update.scale * update.up).detach().cpu().contiguous()
    path = scratch() / ADAPTER
    save_file(found, str(path))
    return path
