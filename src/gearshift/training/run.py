"""What all that train a model have in common: updates put in, parameters trained, updates merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe
from gearshift.core.target import Swap, Written, matches
from gearshift.models.describe import layers_to_leave
from gearshift.steps.tree import tensors
from gearshift.training.cached_training import Stretch
from gearshift.training.checkpoint import Checkpoint, digest, home
from gearshift.training.language import split
from gearshift.training.lora import LowRank
from gearshift.training.trainable import learning, linears
from gearshift.training.trainer import Curve, Settings, Trainer, with_bar

Paths = dict[str, list[str]]
Students = Mapping[str, nn.Module]


def adapted(
    model: Any, students: Students, context: Context, rank: int, scale: float, chosen: Callable[[list[str]], list[str]]
) -> Paths:
    """Put LoRA updates beside the linear layers that the recipe chooses.

    Args:
        students: the modules that are trained, by part of the model.
        chosen: picks from the paths of a part's layers.
    """
    assert context.applied is not None
    generator = torch.Generator().manual_seed(context.recipe.seed)
    recipe, found = context.recipe, {}
    for part, root in students.items():
        keep = () if recipe.include else layers_to_leave(model)[part][1]
        exclude = (*keep, *recipe.exclude)
        paths = [p for p, _ in linears(root) if matches(p, recipe.include or ("*",)) and not matches(p, exclude)]
        found[part] = chosen(paths)
        for path in found[part]:
            base = root.get_submodule(path)
            update = LowRank.over(base, rank, scale, generator)
            context.change(Swap(root, path, update, base, context.applied.algorithm.name))
    return found


def updates(students: Students, paths: Paths) -> dict[nn.Parameter, float]:
    """The parameters of the updates, which learn at the rate that is asked for."""
    layers = [students[part].get_submodule(path) for part, names in paths.items() for path in names]
    return {p: 1.0 for layer in layers if isinstance(layer, LowRank) for p in (layer.down, layer.up)}


def trained(
    students: Students,
    context: Context,
    settings: Settings,
    objective: nn.Module,
    parameters: Mapping[nn.Parameter, float],
    training_samples: list[Any],
) -> Curve:
    """Train parameters on some samples and hold the rest out; a run like it that was stopped goes on.

    Args:
        parameters: with the factors of their learning rates.

    Raises:
        BadRecipe: if there are none.
    """
    assert context.applied is not None
    algorithm = context.applied.algorithm
    if not parameters:
        raise BadRecipe([f"{algorithm.name} finds nothing to train: the recipe leaves it no layer of type nn.Linear."])
    values = Written(algorithm.name, keep=True)  # they are few
    context.change(values)
    for parameter in parameters:
        values.put(parameter)
    examples, held_out = split(training_samples)
    name = digest((algorithm.name, algorithm.values(), settings, len(examples), *parameters, *_beginning(examples)))
    with learning(parameters, *students.values()), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        checkpoint = Checkpoint(home() / name)
        trainer = Trainer(settings, objective, parameters, examples, held_out, context.warn, checkpoint)
        curve = with_bar(trainer, algorithm.name)
    _tell(context, curve, parameters, len(examples))
    return curve


def _beginning(examples: list[Any]) -> list[Any]:
    """The tensors of the first example, or of the first call of one."""
    first = [example.training_samples[0] if isinstance(example, Stretch) else example for example in examples[:1]]
    return tensors([e if isinstance(e, torch.Tensor) else list(vars(e).values()) for e in first])


def merged(students: Students, context: Context, paths: Paths) -> Paths:
    """Add updates to plain float weights and take their layers away; those that have to stay."""
    assert context.applied is not None
    left: Paths = {}
    sums = Written(context.applied.algorithm.name, context.keep_original, "merged what it trained into weights")
    context.change(sums)
    for part, names in paths.items():
        for path in names:
            update = students[part].get_submodule(path)
            assert isinstance(update, LowRank)
            if type(update.base) is not nn.Linear:
                left.setdefault(part, []).append(path)
                continue
            delta = update.update().detach()
            swap = next(c for c in context.applied.changes if isinstance(c, Swap) and c.new is update)
            swap.revert()
            context.applied.changes.remove(swap)
            weight = update.base.weight
            sums.put(weight, weight.detach().float() + delta.to(weight.device))
    return left


def _tell(context: Context, curve: Curve, parameters: Iterable[nn.Parameter], examples: int) -> None:
    context.measured(
        trained_parameters=sum(p.numel() for p in parameters),
        batches=examples,
        loss_before=curve.validation[0][1] if curve.validation else None,
        loss_after=curve.best,
        curve={str(step): loss for step, loss in curve.validation},
    )
    if curve.stopped_early:
        context.note("Training ended early, as the held-out loss no longer went down; the best values were kept.")
    if curve.resumed_at:
        context.note(f"Training went on from step {curve.resumed_at} of a run that was stopped.")
