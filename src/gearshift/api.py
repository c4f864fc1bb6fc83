"""What users call: the verbs, saving and loading, plans and runtimes. Nothing heavy is imported until one is used."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gearshift.applying import applied, follow, planner_recipe, problems
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import BadValue, WrongModel, quoted, told
from gearshift.core.log import set_verbosity
from gearshift.core.recipe import Recipe
from gearshift.core.record import Applied, Record, attach, record_of
from gearshift.core.registry import registry
from gearshift.core.status import Status
from gearshift.core.surroundings import surroundings
from gearshift.core.transaction import Transaction

if TYPE_CHECKING:
    from gearshift.models.warming import Warmed
    from gearshift.planner.plan import Plan
    from gearshift.steps.explanation import Explanation

__all__ = [
    "algorithms", "disabled", "explain", "export", "follow", "load", "optimize", "plan", "problems", "read_checkpoint",
    "restore", "save", "set_verbosity", "status", "warm_up",
]  # fmt: skip

M = TypeVar("M")
LATER = {  # what is imported when somebody asks for it
    "Plan": "planner.plan",
    "sampling": "steps.run",
    "CausalGenerator": "runtimes.generator",
    "Translator": "runtimes.translator",
    "WhisperGenerator": "runtimes.whisper",
    "CTranslateTranscriber": "runtimes.whisper_ctranslate",
    "TorchTranscriber": "runtimes.whisper_torch",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'gearshift' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gearshift.{LATER[name]}"), name)


def algorithms() -> dict[str, type[Algorithm]]:
    """Every algorithm by name, family by family; imports none of the packages they use, nor torch."""
    return {cls.name: cls for cls in registry()}


def optimize(
    model: M, recipe: Any = None, /, *, keep_original: bool = False, verify: bool = False, **keywords: Any
) -> M:
    """Apply a recipe to a model, in place: the whole of it, or after any error or Ctrl-C nothing.

    The weights that are replaced are held until the last algorithm is through, so the peak of memory is that of the
    model before and after together. Random states and other settings of the process are left as they were.

    Args:
        model: a diffusers pipeline, a transformers model or any torch module.
        recipe: whatever `Recipe.of` reads: names, {name: parameters}, a YAML file, 'a, b(x=1)', a Recipe.
        keep_original: keep the weights that are replaced, so that `disabled` and `restore` can bring them back; costs
            their memory.
        verify: time one call before and after, put both in the status, and warn if the model became slower.
        keywords: settings (batch_size, device, seed, include, exclude, tokenizer, processor, data) and algorithms by
            name.

    Returns:
        The same object, unless an algorithm replaces the model by a runtime of its own (CTranslate2, for one).

    Raises:
        BadRecipe: with everything that is wrong with the recipe for this model, before anything is changed.
        BadValue: for an option that is neither True nor False.
        WrongModel: if it is neither a pipeline nor a torch module.
    """
    from gearshift.evaluate.timing import warn_of_another_machine
    from gearshift.models.speed import verified

    for name, value in (("keep_original", keep_original), ("verify", verify)):
        if not isinstance(value, bool):
            raise BadValue(f"{name} must be True or False. Got {quoted(value)} instead.")
    wanted = Recipe.of(recipe, **keywords)
    if wanted.tuned is not None:
        warn_of_another_machine(wanted.tuned.get("machine"))
    apply = partial(applied, model, wanted, keep_original, {})
    with surroundings(wanted.seed), Transaction(model):
        return verified(model, wanted, apply) if verify else apply()


def plan(
    model: Any,
    *,
    data: Any = None,
    speed: float | None = None,
    quality: float | None = None,
    memory: float | None = None,
    mode: str = "taylor",
    metric: Any = None,
    quantile: float = 1.0,
) -> Plan:
    """Find which steps are worth computing, and in which precision, by rehearsing a call; the model is left as it was.

    For memory, and for speed where 4 or 8 bits were measured to be faster here, steps and gears are planned together.

    Args:
        model: a diffusers pipeline whose steps no cacher skips yet.
        data: a list whose first item is a dict of the pipeline's arguments: a few prompts, steps, guidance, size.
        speed: how many times as fast the call shall be.
        quality: signal over error of the final latent in dB, same seed, that has to be kept, midway between the mean
            and the worst rehearsed sample; as fast as it allows.
        memory: how many times fewer bytes of weights shall be read over the run.
        mode: 'taylor' extrapolates, with weights fitted to each step; 'default' repeats the last output.
        metric: what is to be small instead of the relative distance of the final latents: a function of this run's and
            the reference's final latent, tensors of one shape, that gives a number. Not with `quality`.
        quantile: of the rehearsed samples (prompts times noises) the one that stands for the worst, 0 to 1. Plans are
            judged midway, in dB, between the mean and this one.

    Returns:
        A `gearshift.planner.plan.Plan`: prints, plots, saves, and `plan.apply(pipe)`.

    Raises:
        BadValue: unless exactly one of speed, quality and memory is given, in its range.
        BadRecipe: if the model has no denoiser, or a cacher already.
    """
    from gearshift.planner.criterion import Criterion, latent_errors
    from gearshift.planner.goal import goal_of
    from gearshift.planner.joint_search import find_plan

    if metric is not None and not callable(metric):
        raise BadValue(f"The 'metric' of a plan must be a function of two latents. Got {quoted(metric)} instead.")
    if metric is not None and quality is not None:
        raise BadValue("A plan with a 'metric' needs a speed or a memory: its quality has no dB.")
    if isinstance(quantile, bool) or not isinstance(quantile, (int, float)) or not 0 <= quantile <= 1:
        raise BadValue(f"The 'quantile' of a plan must be between 0 and 1. Got {quoted(quantile)} instead.")
    criterion = Criterion(latent_errors if metric is None else partial(_distance, metric), quantile)
    goal = goal_of("gearshift", speed, quality, memory, mode=mode, criterion=criterion)
    wanted = planner_recipe(model, mode)
    context = Context(wanted, Record(), applied=Applied(next(iter(wanted))))
    with surroundings(wanted.seed), Transaction(model, keep=False):
        found = find_plan(model, context, goal, data)
    if found is None:
        raise BadValue("A plan needs `data`: a list whose first item is a dict of the pipeline's arguments.")
    return found


def _distance(metric: Any, run: Any, reference: Any) -> float:
    """What a caller's metric gives for two runs."""
    try:
        return float(metric(run.sample, reference.sample))
    except Exception as error:
        raise BadValue(f"The 'metric' of a plan must give a number, and it failed: {told(error)}.") from error


def warm_up(
    model: Any,
    *,
    resolutions: Any = None,
    batch_sizes: Any = (1,),
    lengths: Any = None,
    steps: int | None = None,
    data: Any = None,
) -> list[Warmed]:
    """Call a model twice at each size it will be used at, so that what compiles or is captured is there in advance.

    Args:
        model: a pipeline, a language model or a runtime that generates.
        resolutions: (height, width) pairs of a pipeline's images, pixels; None: the pipeline's own.
        batch_sizes: images or texts at once, each with each resolution or length.
        lengths: tokens of a language model's prompts; None: 32.
        steps: of a pipeline's calls; None: its own number, which meets every gear and kind of step of a schedule.
        data: a list whose first item is a dict of the pipeline's arguments; not needed where it reads prompts.

    Returns:
        A `gearshift.models.warming.Warmed` for each size: seconds of its first and of a later call, graphs made.

    Raises:
        BadValue: for sizes that the model has none of, or a model of which no call is known.
    """
    from gearshift.models.warming import warm_up

    with surroundings(), Transaction(model):
        return warm_up(model, resolutions, batch_sizes, lengths, steps, data)


@contextmanager
def disabled(model: M) -> Iterator[M]:
    """The original model for the length of a block, bit for bit.

    Blocks may be nested. A `restore` inside takes everything off for good, and the end of the block puts nothing on
    again; optimizing, planning and saving wait until the block is left.

    Raises:
        CannotRestore: if weights were replaced and not kept (`optimize(..., keep_original=True)` keeps them).
    """
    record = _record(model)
    on = record.on
    with Transaction(model):
        record.revert()
    try:
        yield model
    finally:
        _apply_again(model, record, on)


def _apply_again(model: Any, record: Any, on: int) -> None:
    """Put on what a block of `disabled` took off: Ctrl-C waits, and after another error it is tried once more."""
    try:
        with Transaction(model, hold=True):
            record.apply(on)
    except BaseException:
        with Transaction(model, hold=True):
            record.apply(on)
        raise


def restore(model: M) -> M:
    """Take off everything that was done to a model, also inside of `disabled`.

    Raises:
        CannotRestore: if weights were replaced and not kept; nothing is taken off then.
    """
    record = _record(model)
    with Transaction(model):
        record.close()
        attach(model, None)
    return model


def status(model: Any) -> Status:
    """What was done to a model: algorithms, parameters, notes, figures, and each step's decision in the newest run."""
    from gearshift.steps.keeping import look_after

    look_after(model)
    return Status.of(record_of(model), model)


def explain(model: Any) -> Explanation:
    """Which steps of the newest sampling run were computed and which were reused, grouped by reason."""
    from gearshift.steps.explanation import explanation
    from gearshift.steps.keeping import look_after

    look_after(model)
    return explanation(record_of(model))


def save(model: Any, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model and everything done to it: safetensors and JSON. See `gearshift.persist.store.save`.

    A folder that was saved before is replaced, other files in it stay, and any other folder is refused unless
    `overwrite` says that whatever is in it may go.
    """
    from gearshift.persist import store

    with surroundings():
        store.save(model, folder, overwrite)


def load(
    folder: str | os.PathLike[str], device: str | None = None, verify: bool = True, trust_compiled: bool = False
) -> Any:
    """The model of a saved folder, on a device. See `gearshift.persist.reload.load`."""
    from gearshift.persist import reload

    with surroundings():
        return reload.load(folder, device, verify, trust_compiled)


def export(
    model: Any, folder: str | os.PathLike[str], format: str, *, tokenizer: Any = None, overwrite: bool = False
) -> None:
    """Write a model in another program's format. See `gearshift.algorithms.common.checkpoint_export`."""
    from gearshift.algorithms.common import checkpoint_export

    with surroundings():
        checkpoint_export.export(model, folder, format, tokenizer, overwrite)


def read_checkpoint(place: str | os.PathLike[str]) -> Any:
    """A language model that another program quantized. See `gearshift.algorithms.common.checkpoint_import`."""
    from gearshift.algorithms.common import checkpoint_import

    with surroundings():
        return checkpoint_import.read_checkpoint(place)


def _record(model: Any) -> Record:
    record = record_of(model)
    if record is None:
        raise WrongModel(f"Nothing was done to this {type(model).__name__} by gearshift.")
    return record
