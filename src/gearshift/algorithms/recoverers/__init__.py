"""Train what compression left, until it answers as the original did.

`Recoverer` is what all of them share; one of them says what is trained and on what.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Kind, Persist, Slot, Stage, Trait
from gearshift.core.param import param


def recoverer_facts(kind: Kind) -> Facts:
    """What every recoverer declares."""
    return Facts(
        family=Family.RECOVERER,
        stage=Stage.RECOVER,
        persist=Persist.WEIGHTS,
        occupies={Slot.ADAPTER},
        needs={Trait.TORCH_FORWARD, Trait.LINEAR},
        kinds={kind},
    )


def rank_param(default: int) -> Any:
    return param(default, choices=(4, 8, 16, 32, 64, 128), help="rank of the LoRA updates")


def alpha_param(default: float) -> Any:
    return param(default, choices=(0.5, 1.0, 2.0), help="LoRA's alpha over its rank: how much the updates weigh")


def accumulation_param() -> Any:
    return param(1, between=(1, 1024), help="batches whose gradients make one update")


def rate_param(default: float) -> Any:
    return param(default, between=(0.0, 1.0), help="learning rate at its peak")


class Recoverer(Algorithm):
    """Base of the recoverers: adapters and parameters are chosen, trained in one loop, and merged where that is exact.

    Attributes:
        in_place: norms, biases and heads are trained.
        adapted: linear layers get LoRA updates.
        without_data: what is said where the recipe has no data.
        needs_original: the lessons are the original's answers.
    """

    facts = recoverer_facts(Kind.LANGUAGE)
    in_place: ClassVar[bool] = True
    adapted: ClassVar[bool] = True
    without_data: ClassVar[str] = ""
    needs_original: ClassVar[bool] = False

    def settings(self, context: Context) -> Any:
        """A `training.trainer.Settings`."""
        raise NotImplementedError

    def lessons(self, model: Any, context: Context) -> list[Any]:
        """What is trained on: batches, taken from the model as it is now."""
        raise NotImplementedError

    def objective(self, model: Any) -> Any:
        """A module that gives the loss of one batch."""
        raise NotImplementedError

    def students(self, model: Any) -> dict[str, Any]:
        """The modules that are trained, by part."""
        raise NotImplementedError

    def heads(self, model: Any) -> list[Any]:
        """Further parameters that are trained in place."""
        return []

    def look(self, model: Any, context: Context) -> None:
        from gearshift.core.errors import CannotLift

        try:
            with context.record.lifted():
                context.seen[self.name] = self.lessons(model, context), True
        except CannotLift:
            context.seen[self.name] = self.lessons(model, context), False

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.training.language import split

        start = time.perf_counter()
        lessons, original = context.seen.pop(self.name)
        if self.needs_original and not original:
            context.warn(
                f"{self.name} learns from the model as it is, because what was done to it before cannot be taken off. "
                "Name both algorithms in one recipe, so that it sees the original."
            )
        if context.recipe.data is None:
            context.note(self.without_data)
        examples, held_out = split(lessons)
        paths = self._adapt(model, context) if self.adapted else {}
        parameters = self._parameters(model, paths)
        curve = self._train(model, context, parameters, examples, held_out)
        left = self._merge(model, context, paths)
        values = self.values()
        context.save(parts=sorted(left), paths=left, rank=values.get("r"), scale=values.get("alpha_r_ratio"))
        context.measured(
            trained_parameters=sum(p.numel() for p in parameters),
            batches=len(examples),
            loss_before=curve.validation[0][1] if curve.validation else None,
            loss_after=curve.best,
            curve={str(step): loss for step, loss in curve.validation},
            seconds=time.perf_counter() - start,
        )
        if curve.stopped_early:
            context.note("Training ended early, as the held-out loss no longer went down; the best values were kept.")
        if curve.resumed_at:
            context.note(f"Training went on from step {curve.resumed_at} of a run that was stopped.")

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.core.model import parts
        from gearshift.core.target import Swap
        from gearshift.training.lora import LowRank

        for part, paths in context.saved["paths"].items():
            root = parts(model)[part]
            for path in paths:
                base = root.get_submodule(path)
                update = LowRank(base, context.saved["rank"], context.saved["scale"], "meta").eval()
                context.change(Swap(root, path, update, base, self.name))

    def _adapt(self, model: Any, context: Context) -> dict[str, list[str]]:
        """LoRA updates beside the linear layers that the recipe chooses; their paths by part."""
        import torch

        from gearshift.core.target import Swap, matches
        from gearshift.models.describe import layers_to_leave
        from gearshift.training.lora import LowRank
        from gearshift.training.trainable import linears

        generator = torch.Generator().manual_seed(context.recipe.seed)
        values, recipe = self.values(), context.recipe
        found: dict[str, list[str]] = {}
        for part, root in self.students(model).items():
            keep = () if recipe.include else layers_to_leave(model)[part][1]
            exclude = (*keep, *recipe.exclude)
            paths = [p for p, _ in linears(root) if matches(p, recipe.include or ("*",)) and not matches(p, exclude)]
            for path in self.chosen(paths):
                base = root.get_submodule(path)
                update = LowRank.over(base, values["r"], values["alpha_r_ratio"], generator)
                context.change(Swap(root, path, update, base, self.name))
                found.setdefault(part, []).append(path)
        return found

    def chosen(self, paths: list[str]) -> list[str]:
        """Which of the linear layers get updates; all of them by default."""
        return paths

    def _parameters(self, model: Any, paths: dict[str, list[str]]) -> list[Any]:
        from gearshift.training.trainable import norms_and_biases

        found: dict[Any, None] = {}
        for part, root in self.students(model).items():
            for path in paths.get(part, []):
                update = root.get_submodule(path)
                found |= dict.fromkeys((update.down, update.up))
            if self.in_place:
                found |= dict.fromkeys(norms_and_biases(root))
        if self.in_place:
            found |= dict.fromkeys(self.heads(model))
        return list(found)

    def _train(self, model: Any, context: Context, parameters: list[Any], examples: list, held_out: list) -> Any:
        import torch

        from gearshift.training.checkpoint import Checkpoint, digest, home
        from gearshift.training.trainable import Trained, trainable
        from gearshift.training.trainer import Trainer, with_bar

        record = Trained(parameters)
        context.change(record)
        settings, objective = self.settings(context), self.objective(model)
        name = digest((self.name, self.values(), settings, len(examples), *parameters, *_weights(examples)))
        back = trainable(parameters, *self.students(model).values())
        try:
            with torch.enable_grad(), torch.random.fork_rng():
                torch.manual_seed(settings.seed)
                trainer = Trainer(
                    settings, objective, parameters, examples, held_out, context.warn, Checkpoint(home() / name)
                )
                return with_bar(trainer, self.name)
        finally:
            back()

    def _merge(self, model: Any, context: Context, paths: dict[str, list[str]]) -> dict[str, list[str]]:
        """Add updates to plain float weights and take their layers away; what has to stay, by part."""
        from torch import nn

        from gearshift.training.trainable import Merged

        left: dict[str, list[str]] = {}
        assert context.applied is not None
        for part, root in self.students(model).items():
            for path in paths.get(part, []):
                update = root.get_submodule(path)
                if type(update.base) is not nn.Linear:
                    left.setdefault(part, []).append(path)
                    continue
                swap = next(c for c in context.applied.changes if getattr(c, "new", None) is update)
                delta = update.update().detach()
                swap.lift()
                context.applied.changes.remove(swap)
                weight = update.base.weight.detach().clone() if context.keep_original else None
                context.change(Merged(update.base, delta, weight, self.name))
        return left


def _weights(examples: list[Any]) -> list[Any]:
    """Tensors that tell one set of examples from another."""
    import torch

    first = examples[:1]
    return [e if isinstance(e, torch.Tensor) else getattr(e, "args", ()) for e in first]
