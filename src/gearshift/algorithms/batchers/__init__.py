"""What the batchers have in common: a Whisper model and its processor give way to a transcriber."""

from __future__ import annotations

from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import WrongModel
from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait


def batcher_facts(*needs: Trait, **more: Any) -> Facts:
    """They decide how sound is batched, after everything else."""
    return Facts(
        family=Family.BATCHER,
        stage=Stage.BATCH,
        occupies={Slot.BATCHING},
        needs=set(needs),
        removes={Trait.TORCH_FORWARD, Trait.TORCH_MODULE},
        kinds={Kind.SPEECH},
        **more,
    )


class Batcher(Algorithm):
    """Base of the batchers."""

    facts = batcher_facts()

    def lacks(self, model: Any, context: Context) -> list[str]:
        """Sentences about why this is no Whisper that can be taken."""
        raise NotImplementedError

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.runtimes.speech.tokens import Tokens

        found = self.lacks(model, context)
        if found:
            return found
        if not hasattr(_processor(model, context), "feature_extractor"):
            found.append(
                f"{self.name} needs the model's processor, which makes features of sound and text of tokens: "
                "processor=WhisperProcessor.from_pretrained(...)."
            )
        try:
            Tokens.of(model.config, model.generation_config)
        except WrongModel as error:
            found.append(f"{self.name}: {error}")
        return found

    def before_recipe(self, model: Any, context: Context) -> None:
        """Keep the processor: a converted model no longer knows where its weights came from."""
        context.seen[self.name] = _processor(model, context)


def _processor(model: Any, context: Context) -> Any:
    """The recipe's processor, or the model's own, or the one beside its weights; None if there is none."""
    found = context.recipe.processor or getattr(model, "processor", None)
    place = getattr(model, "name_or_path", "")
    if found is not None or not place:
        return found
    from transformers import WhisperProcessor

    from gearshift.persist.libraries.transformers import LOCAL

    try:
        return WhisperProcessor.from_pretrained(place, **LOCAL)
    except (OSError, ValueError):
        return None
