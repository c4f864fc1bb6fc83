"""Output heads that had the embedding's weight, and no longer have it when they are replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gearshift.core.change import Change
from gearshift.core.context import Context


def shares_weight(model: Any) -> bool:
    """Whether a model's output head has the weight of its embedding."""
    if not hasattr(model, "get_output_embeddings"):
        return False
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", ())


def untie(model: Any, context: Context, tied: bool) -> None:
    """Say it in the model's configuration, if its head was tied and is not any more."""
    if tied and not shares_weight(model):
        context.change(Untied(model.config))
        context.note("The output head no longer shares the embedding's weights.")


@dataclass
class Untied(Change):
    """The configuration of a model whose head has its own weight now, beside that of the embedding."""

    config: Any

    def apply(self) -> None:
        self.config.tie_word_embeddings = False

    def revert(self) -> None:
        self.config.tie_word_embeddings = True
