"""Train what compression left, until it answers as the original did.

`Recoverer` is what all of them share; one of them says what is trained and on what.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import CannotRestore
from gearshift.core.facts import Facts, Family, Kind, Persist, Slot, Stage, Trait
from gearshift.core.model import parts
from gearshift.core.param import param
from gearshift.core.plain import PART, PARTS, dict_of, list_of, number, text, whole
from gearshift.core.target import Swap


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


class Recoverer(Algorithm, base=True):
    """Base of the recoverers: adapters and parameters are chosen, trained in one loop, and merged where that is exact.

    Attributes:
        in_place: norms, biases and heads are trained.
        adapted: linear layers get LoRA updates.
        gain_rate: factor of the learning rate of norms' weights.
        head_rate: of heads.
        without_data: what is said where the recipe has no data.
        without_original: what it learns where the original cannot be had for the length of the training.
    """

    facts = recoverer_facts(Kind.LANGUAGE)
    in_place: ClassVar[bool] = True
    adapted: ClassVar[bool] = True
    gain_rate: ClassVar[float] = 1.0
    head_rate: ClassVar[float] = 1.0
    without_data: ClassVar[str] = ""
    without_original: ClassVar[str] = ""

    def settings(self, context: Context) -> Any:
        """A `training.trainer.Settings`."""
        raise NotImplementedError

    def training_samples(self, model: Any, context: Context, original: bool) -> list[Any]:
        """What is trained on: batches, taken from the model as it is now, which may be the original."""
        raise NotImplementedError

    def objective(self, model: Any, original: bool) -> Any:
        """A module that gives the loss of one batch, of samples with or without the original."""
        raise NotImplementedError

    def students(self, model: Any) -> dict[str, Any]:
        """The modules that are trained, by part."""
        raise NotImplementedError

    def heads(self, model: Any) -> list[Any]:
        """Further parameters that are trained in place."""
        return []

    def before_recipe(self, model: Any, context: Context) -> None:
        record = context.record
        before = [*(applied.algorithm for applied in record.applied), *context.recipe.algorithms]
        reason = "" if any(_costs_quality(a) for a in before) else "nothing was done to it before"
        if not reason:
            try:
                with record.reverted():
                    context.seen[self.name] = self.training_samples(model, context, True), ""
                return
            except CannotRestore:
                reason = (
                    "what was done to it before cannot be undone; in one recipe with that, it would learn from the "
                    "original's answers"
                )
        with record.reverted(sum(type(applied.algorithm).facts.stage <= Stage.RECOVER for applied in record.applied)):
            context.seen[self.name] = self.training_samples(model, context, False), reason

    saved_fields: ClassVar = {
        "parts": PARTS,
        "paths": dict_of(list_of(text()), key=PART),
        "rank": whole(0),
        "scale": number(),
    }

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.training.run import adapted, merged, trained, updates

        start = time.perf_counter()
        training_samples, reason = context.seen.pop(self.name)
        if reason:
            context.warn(f"{self.name}: the model learns from {self.without_original}, as {reason}.")
        if context.recipe.data is None:
            context.note(self.without_data)
        values, students = self.values(), self.students(model)
        rank, scale = values.get("r", 0), values.get("alpha_r_ratio", 1.0)
        paths = adapted(model, students, context, rank, scale, self.chosen) if self.adapted else {}
        parameters = {**updates(students, paths), **self._in_place(model, students)}
        with self.taught(model, context, training_samples, not reason) as (objective, examples):
            trained(students, context, self.settings(context), objective, parameters, examples)
        left = merged(students, context, paths)
        context.save(parts=sorted(left), paths=left, rank=rank, scale=scale)
        context.measured(seconds=time.perf_counter() - start)

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.training.lora import LowRank

        for part, paths in context.saved["paths"].items():
            root = parts(model)[part]
            for path in paths:
                base = root.get_submodule(path)
                update = LowRank(base, context.saved["rank"], context.saved["scale"], "meta").eval()
                context.change(Swap(root, path, update, base, self.name))

    @contextmanager
    def taught(
        self, model: Any, context: Context, training_samples: list[Any], original: bool
    ) -> Iterator[tuple[Any, Any]]:
        """The objective and what it is minimized over, for the length of the training."""
        yield self.objective(model, original), training_samples

    def chosen(self, paths: list[str]) -> list[str]:
        """Which of the linear layers get updates; all of them by default."""
        return paths

    def _in_place(self, model: Any, students: dict[str, Any]) -> dict[Any, float]:
        """Parameters that are trained in place, with the factors of their learning rates."""
        from gearshift.training.trainable import norms_and_biases

        if not self.in_place:
            return {}
        found = dict.fromkeys(self.heads(model), self.head_rate)
        for root in students.values():
            found |= norms_and_biases(root, self.gain_rate)
        return found


def _costs_quality(algorithm: Algorithm) -> bool:
    """Whether an algorithm changes what a model answers, so that there is something to win back."""
    facts = type(algorithm).facts
    return facts.stage < Stage.RECOVER or facts.family is Family.CACHER
