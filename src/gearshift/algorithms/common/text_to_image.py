"""What the recoverers of diffusion pipelines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gearshift.algorithms.recoverers import Recoverer, recoverer_facts
from gearshift.core.context import Context
from gearshift.core.facts import Kind
from gearshift.core.param import param


def batch_param() -> Any:
    return param(0, between=(0, 4096), help="prompts in a batch; 0: the recipe's batch size")


def epochs_param() -> Any:
    return param(1, between=(0, 4096), help="times that all recorded calls are gone through")


def validate_param() -> Any:
    return param(1.0, between=(0.0, 4096.0), help="epochs between validations; below 1: several in an epoch")


def offload_param() -> Any:
    return param(False, choices=(True, False), help="keep what is not trained on the CPU while training")


def optimizer_param() -> Any:
    return param("AdamW", choices=("AdamW8bit", "AdamW", "Adam"), help="optimizer")


class ImageRecoverer(Recoverer, base=True):
    """Base of the recoverers of pipelines: the denoiser learns to answer as the original did along its own runs.

    The calls are recorded before the recipe's other algorithms are applied. A cacher that fills in steps is trained
    through: the denoiser learns to leave behind what the original's outputs can be filled in from. `data` is prompts,
    or dicts of the pipeline's arguments; one with an `image` starts from that image, noised. Without data prompts are
    made up of words that the tokenizer knows.
    """

    facts = recoverer_facts(Kind.DIFFUSION)
    without_data = "No prompts were given, so they were made up of words that the tokenizer knows, or of class labels."
    without_original = "its own answers as it is"

    def students(self, model: Any) -> dict[str, Any]:
        from gearshift.models.diffusers import denoisers

        return denoisers(model)

    def objective(self, model: Any, original: bool) -> Any:
        from gearshift.training.diffusion import SameOutput

        return SameOutput(self.students(model))

    def settings(self, context: Context) -> Any:
        from gearshift.training.trainer import Settings

        values = self.values()
        return Settings(
            epochs=float(values["num_epochs"]),
            rate=values["learning_rate"],
            optimizer=values["optimizer"],
            accumulation=values["gradient_accumulation_steps"],
            validate_every=values["validate_every_n_epoch"],
            seed=context.recipe.seed,
        )

    def check_model(self, model: Any, context: Context) -> list[str]:
        if isinstance(context.recipe.data, str):
            return [f"{self.name}: `data` is a list of prompts, not one prompt."]
        return []

    def training_samples(self, model: Any, context: Context, original: bool) -> list[Any]:
        from gearshift.training.diffusion import calls_of, distillation_samples

        recipe = context.recipe
        calls = calls_of(model, recipe.data, self.values()["batch_size"] or recipe.batch_size, recipe.seed)
        return distillation_samples(model, calls, recipe.seed)

    @contextmanager
    def taught(
        self, model: Any, context: Context, training_samples: list[Any], original: bool
    ) -> Iterator[tuple[Any, Any]]:
        from gearshift.training.cached_training import ThroughCachers, cachers_on, stretches

        with cachers_on(model, context) as names:
            students = self.students(model)
            through = stretches(training_samples, students) if names else []
            if through:
                context.note(
                    f"Trained through {' and '.join(names)}: reused steps are trained towards the original too."
                )
                yield ThroughCachers(students), through
            else:
                yield self.objective(model, original), training_samples

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.training.diffusion import offloaded

        with offloaded(model, self.values()["use_cpu_offloading"]):
            super().apply(model, context)
