"""The verbs that measure: what a model is worth, and which recipe makes it best. Nothing heavy until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gearshift.api import disabled, optimize
from gearshift.core.surroundings import surroundings

if TYPE_CHECKING:
    from gearshift.evaluate.evaluation import Evaluation
    from gearshift.tune.tuning import Tuning


def evaluate(
    model: Any,
    against: Any = None,
    *,
    data: Any = None,
    metrics: Any = None,
    seed: int = 0,
    batch_size: int = 1,
    tokenizer: Any = None,
    processor: Any = None,
) -> Evaluation:
    """Measure a model: how close to the original, how good, how fast and how large, and the spread of it.

    The model and the original take turns on the same examples and seeds. Nothing is changed.

    Args:
        model: a pipeline, a language or speech model or another module, optimized or not.
        against: what it is compared with; None: the model as it was before it was optimized, where that can be had.
        data: examples of calls: a list of prompts, texts or sound files, or of dicts of arguments (for speech with the
            true 'text'); or the path of a text file, JSON lines or a JSON list.
        metrics: names such as 'psnr', with a floor for each item as in 'psnr>=30', with weights as in 'clip=FOLDER',
            and functions (output, arguments) -> a number; None: what is usual for the kind of model.
        seed: of the first item's noise.
        batch_size: prompts in one call of a pipeline.
        tokenizer, processor: read texts and sound, where the model has none of its own.

    Returns:
        A `gearshift.evaluate.evaluation.Evaluation`: prints, `to_json()`, `report(path)`, `compare(other)`.

    Raises:
        BadValue, UnknownName: for data or metrics that are not to be measured, before anything runs.
        BadRecipe: if the model does not take an example.
    """
    from gearshift.evaluate.evaluating import evaluate

    readers = {"tokenizer": tokenizer, "processor": processor}
    with surroundings(seed):
        return evaluate(model, against, data, metrics, seed, batch_size, readers, disabled)


def tune(
    model: Any,
    *,
    data: Any = None,
    keep: Any = None,
    objective: str = "latency",
    budget: Any = "10m",
    only: Any = None,
    without: Any = None,
    space: Any = None,
    out: Any = None,
    seed: int = 0,
    tokenizer: Any = None,
    processor: Any = None,
) -> Tuning:
    """Find the recipe that makes a model best here, at a quality that is asked for; the model stays as it is.

    Each candidate is applied to a copy in a process of its own, with a time limit, and takes turns with the original.
    Two thirds of the examples are for choosing; on the others, those that keep what is asked are checked.

    Args:
        model: a pipeline, a language or speech model, as it is without gearshift.
        data: as for `evaluate`; three examples or more.
        keep: conditions such as 'psnr>=35', 'worst:psnr>=25', 'perplexity<=101%' (of the original's), 'wer<=+0.5'
            (above the original's); None: what is usual for the kind of model.
        objective: 'latency', 'throughput' (eight prompts at once), 'memory' or 'disk'.
        budget: how long to search: '10m', '90s', '1h'.
        only, without: algorithms or families to try, or not to; those that train are only tried if named.
        space: {algorithm: {parameter: values}} to try in place of those that its bounds suggest.
        out: folder for the study, the recipe, the table and the report; a search that was ended there goes on.
        seed: of the examples' noise and of the search.
        tokenizer, processor: read texts and sound, where the model has none of its own.

    Returns:
        A `gearshift.tune.tuning.Tuning`: prints; `best`, `front`, `recipe`, `apply(model)`, `save(folder)`.

    Raises:
        BadValue, UnknownName, MissingExtra: for what cannot be searched, before anything runs.
    """
    from gearshift.tune.tuned import tune

    readers = {"tokenizer": tokenizer, "processor": processor}
    narrowed = {"only": only, "without": without, "values": space}
    with surroundings(seed):
        return tune(model, data, keep, objective, budget, out, seed, readers, optimize, **narrowed)
