"""What the recoverers of language models share."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.recoverers import Recoverer, recoverer_facts
from gearshift.core.context import Context
from gearshift.core.facts import Kind
from gearshift.core.param import param


def batch_param() -> Any:
    return param(1, between=(1, 4096), help="windows of 256 tokens in a batch")


def epochs_param() -> Any:
    return param(1.0, between=(0.0, 4096.0), help="times that the data is gone through")


def report_param() -> Any:
    return param("none", choices=("none", "wandb", "tensorboard"), help="where progress is reported")


def optimizer_param() -> Any:
    return param("AdamW8bit", choices=("AdamW", "AdamW8bit", "PagedAdamW8bit"), help="optimizer")


def targets_param() -> Any:
    return param(None, choices=(None, "all-linear"), help="layers with updates; None: attention's query and value")


QUERY_AND_VALUE = ("q_proj", "v_proj", "query", "value", "c_attn", "query_key_value", "Wqkv", "qkv_proj")


class LanguageRecoverer(Recoverer, base=True):
    """Base of the recoverers of language models: they learn the original's probabilities of what comes next.

    That is in the data, or in text that the original writes; where the original is gone, they learn the text alone.
    """

    facts = recoverer_facts(Kind.LANGUAGE)
    without_data = "No data was given, so the model was trained on text that it wrote itself."
    without_original = "the next tokens of the text alone"

    def students(self, model: Any) -> dict[str, Any]:
        return {"": model}

    def heads(self, model: Any) -> list[Any]:
        from gearshift.training.trainable import head

        return head(model, shared=not self.adapted)

    def objective(self, model: Any, original: bool) -> Any:
        from gearshift.training.language import NextToken, SameAnswers

        return SameAnswers(model) if original else NextToken(model)

    def settings(self, context: Context) -> Any:
        from gearshift.training.trainer import Settings

        values = self.values()
        return Settings(
            epochs=values["num_epochs"],
            rate=values["learning_rate"],
            optimizer=values["optimizer"],
            accumulation=values["gradient_accumulation_steps"],
            report_to=values["report_to"],
            seed=context.recipe.seed,
        )

    def check_model(self, model: Any, context: Context) -> list[str]:
        data, tokenizer = context.recipe.data, context.recipe.tokenizer
        if isinstance(data, str):
            return [f"{self.name}: `data` is a list of strings, not one string."]
        if isinstance(data, (list, tuple)) and any(isinstance(d, str) for d in data) and tokenizer is None:
            return [f"{self.name}: `data` holds strings, so it takes a `tokenizer` to read them."]
        return []

    def training_samples(self, model: Any, context: Context, original: bool) -> list[Any]:
        from gearshift.training.language import answers, own_text, window_of, windows

        length, recipe = window_of(model), context.recipe
        if recipe.data is None:
            found = own_text(model, length, recipe.seed)
        else:
            found = windows(recipe.data, recipe.tokenizer, length)
        batches = found.split(self.values()["batch_size"])
        return answers(model, batches) if original else list(batches)

    def chosen(self, paths: list[str]) -> list[str]:
        if self.values().get("target_modules") == "all-linear":
            return paths
        return [p for p in paths if p.rpartition(".")[2] in QUERY_AND_VALUE] or paths
