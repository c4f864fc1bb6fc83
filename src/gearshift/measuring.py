"""The verbs that measure: what a model is worth, and which recipe makes it best. Nothing heavy until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gearshift.api import disabled
from gearshift.core.surroundings import surroundings

if TYPE_CHECKING:
    from gearshift.evaluate.evaluation import Evaluation


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
