"""What a Whisper model's special tokens are, and what its tokens say of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gearshift.core.errors import BadValue, WrongModel, quoted

TASKS = ("transcribe", "translate")
TICK = 0.02  # seconds between two timestamp tokens


@dataclass(frozen=True)
class Tokens:
    """Special tokens and limits of one Whisper model.

    Attributes:
        start, end: the first token of the decoder's input, and the one that ends an output.
        no_speech: the token whose probability after `start` says that nobody speaks.
        first_time: the timestamp of 0 seconds; those after it follow every 20 ms.
        languages: tokens by code ('en'); none for an English-only model.
        tasks: tokens of 'transcribe' and 'translate'; none for an English-only model.
        banned: tokens that never come; `banned_first`: those that an output does not begin with.
        most: most tokens of an output: half of what the decoder has places for, as in Whisper's own decoding.
        window: seconds of sound that the encoder takes.
        heads: (layer, head) pairs of the cross-attention that follow the sound.
    """

    start: int
    end: int
    no_speech: int
    first_time: int
    languages: dict[str, int]
    tasks: dict[str, int]
    banned: tuple[int, ...]
    banned_first: tuple[int, ...]
    most: int
    window: float
    heads: tuple[tuple[int, int], ...]

    @staticmethod
    def of(config: Any, generation: Any) -> Tokens:
        """Read them from a model's configuration and its generation configuration.

        Raises:
            WrongModel: if the vocabulary has no timestamp tokens.
        """
        said = generation.to_dict()
        untimed = said.get("no_timestamps_token_id")
        if untimed is None or untimed + 1 >= config.vocab_size:
            raise WrongModel(
                "Transcribing needs to know the model's timestamp tokens: its generation_config has no "
                "'no_timestamps_token_id', or its vocabulary ends there."
            )
        languages = said.get("lang_to_id") or {}
        ends = said.get("eos_token_id") or config.eos_token_id
        return Tokens(
            start=said.get("decoder_start_token_id") or config.decoder_start_token_id,
            end=ends[0] if isinstance(ends, (list, tuple)) else ends,
            no_speech=untimed - 1,
            first_time=untimed + 1,
            languages={name.strip("<|>"): token for name, token in languages.items()},
            tasks=dict(said.get("task_to_id") or {}) if languages else {},
            banned=tuple(said.get("suppress_tokens") or ()),
            banned_first=tuple(said.get("begin_suppress_tokens") or ()),
            most=config.max_target_positions // 2,
            window=config.max_source_positions * TICK,
            heads=tuple((layer, head) for layer, head in said.get("alignment_heads") or _later_heads(config)),
        )

    def check(self, language: str | None, task: str) -> None:
        """Raise BadValue for a task or language that this model does not know."""
        if task not in TASKS:
            raise BadValue(f"task must be one of {', '.join(TASKS)}. Got {quoted(task)} instead.")
        if task != TASKS[0] and not self.tasks:
            raise BadValue(f"This model knows one language, so it cannot {task}.")
        if language is None or language in self.languages or (language == "en" and not self.languages):
            return
        known = ", ".join(sorted(self.languages)) or "en"
        raise BadValue(f"There is no language {language!r} in this model; it knows {known}.")

    def prompt(self, language: str | None, task: str) -> list[int]:
        """What the decoder is given before an output with timestamps."""
        if not self.languages or language is None:
            return [self.start]
        return [self.start, self.languages[language], *([self.tasks[task]] if task in self.tasks else [])]


def _later_heads(config: Any) -> list[tuple[int, int]]:
    """All heads of the upper half of the decoder, as Whisper's authors do where none are named."""
    layers = range(config.decoder_layers // 2, config.decoder_layers)
    return [(layer, head) for layer in layers for head in range(config.decoder_attention_heads)]
