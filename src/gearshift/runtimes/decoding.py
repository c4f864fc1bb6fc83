"""What `generate` is asked for, in transformers' words, and the same in CTranslate2's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gearshift.core.errors import BadValue
from gearshift.core.param import Choices, Param, Range
from gearshift.runtimes.token_batching import vocabulary_words

MOST, NEVER = 2**31 - 1, 2**32 - 1
NEW_TOKENS = 20  # transformers' default
LENGTHS = {
    "max_new_tokens": Param(None, Range(1, MOST, True), "most tokens to add"),
    "max_length": Param(None, Range(1, MOST, True), "most tokens, the prompt's among them"),
    "min_new_tokens": Param(None, Range(0, MOST, True), "least tokens to add"),
    "min_length": Param(None, Range(0, MOST, True), "least tokens, the prompt's among them"),
}
SAMPLING = {
    "do_sample": Param(False, Choices((True, False)), "draw tokens instead of taking the likeliest"),
    "temperature": Param(1.0, Range(1e-6, 1e6, False), "divides the logits; when sampling"),
    "top_k": Param(50, Range(0, MOST, True), "draw from so many likeliest tokens; 0: all; when sampling"),
    "top_p": Param(1.0, Range(1e-6, 1.0, False), "draw from the likeliest that have this share; when sampling"),
}
SEARCH = {
    "num_beams": Param(1, Range(1, 1024, True), "beams of the search"),
    "num_return_sequences": Param(1, Range(1, 1024, True), "sequences for each prompt"),
    "length_penalty": Param(1.0, Range(-1e3, 1e3, False), "power of the length that a beam's score is divided by"),
    "repetition_penalty": Param(1.0, Range(1e-6, 1e6, False), "divides what came before; above 1 keeps from repeating"),
    "no_repeat_ngram_size": Param(0, Range(0, MOST, True), "length of what must not come twice; 0: all may"),
}
TOKENS = ("eos_token_id", "pad_token_id", "bad_words_ids", "suppress_tokens", "forced_eos_token_id")
BOUNDED = {**LENGTHS, **SAMPLING, **SEARCH}
ARGUMENTS = (*BOUNDED, *TOKENS)
BEYOND = (
    "begin_suppress_tokens",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "guidance_scale",
    "max_time",
    "min_p",
    "num_beam_groups",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "sequence_bias",
    "stop_strings",
    "top_h",
    "typical_p",
    "watermarking_config",
)


def beyond(config: Any) -> list[str]:
    """What a generation configuration asks for and CTranslate2 has not got, as 'name=value'."""
    asked = config.to_diff_dict()
    return [f"{name}={asked[name]}" for name in BEYOND if asked.get(name) is not None]


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise BadValue for the first argument that is not known, with those that are."""
    for name in given:
        if name not in known:
            raise BadValue(f"{owner}.generate has no argument {name!r}; it has {', '.join(known)}.")


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        values: the arguments of `BOUNDED` but for lengths.
        most, least: tokens to add.
        ends: tokens that end a sequence.
        pad: what shorter sequences are filled up with.
        banned: sequences of tokens that do not come.
        forced_end: the token that a sequence has at its full length; None: whatever is chosen.
    """

    values: dict[str, Any]
    most: int
    least: int
    ends: tuple[int, ...]
    pad: int
    banned: tuple[tuple[int, ...], ...]
    forced_end: int | None

    @staticmethod
    def of(owner: str, given: dict[str, Any], configs: Sequence[Any], length: int, positions: int | None) -> Decoding:
        """Read arguments.

        Args:
            owner: whose `generate` it is, for the errors.
            given: arguments by name; None is as good as absent, but for `eos_token_id`, where it means that none ends.
            configs: generation configurations that fill in what is not given, the first that has it.
            length: tokens that are there at the start.
            positions: most tokens that the model has places for, if that is known.

        Raises:
            BadValue: for a value out of its bound, and for values that do not go together.
        """

        def asked(name: str) -> Any:
            sources = (given.get(name), *(getattr(config, name, None) for config in configs))
            return next((value for value in sources if value is not None), None)

        values = {}
        for name, declared in BOUNDED.items():
            value = asked(name)
            values[name] = declared.default if value is None else declared.check(name, f"{owner}.generate", value)
        most, least = _lengths(owner, given, values, length, positions)
        no_end = "eos_token_id" in given and given["eos_token_id"] is None
        ends = () if no_end else _tokens(asked("eos_token_id"))
        pad = asked("pad_token_id")
        single, longer = _tokens(asked("suppress_tokens")), asked("bad_words_ids") or ()
        decoding = Decoding(
            values={n: values[n] for n in (*SAMPLING, *SEARCH)},
            most=most,
            least=least,
            ends=ends,
            pad=pad if pad is not None else (*ends, 0)[0],
            banned=(*((token,) for token in single), *(tuple(word) for word in longer)),
            forced_end=next(iter(_tokens(asked("forced_eos_token_id"))), None),
        )
        decoding._check(owner)
        return decoding

    def _check(self, owner: str) -> None:
        beams, sequences, draws = (self.values[n] for n in ("num_beams", "num_return_sequences", "do_sample"))
        if sequences > beams and not (draws and beams == 1):
            raise BadValue(
                f"{owner}.generate finds {sequences} sequences only with as many beams (num_beams) or by sampling "
                "without beams (do_sample=True)."
            )

    @property
    def sequences(self) -> int:
        return int(self.values["num_return_sequences"])

    @property
    def draws(self) -> bool:
        return bool(self.values["do_sample"])

    @property
    def looks_back(self) -> bool:
        """Whether what came before decides what may come."""
        return self.values["repetition_penalty"] != 1 or self.values["no_repeat_ngram_size"] > 0

    def options(self, vocabulary: int) -> dict[str, Any]:
        """What CTranslate2's generators and translators have in common; lengths are for them to add."""
        values = self.values
        sampling: dict[str, Any] = {"sampling_topk": 1}
        if self.draws:
            sampling = {
                "sampling_topk": values["top_k"] if values["top_k"] < vocabulary else 0,
                "sampling_topp": float(values["top_p"]),
                "sampling_temperature": float(values["temperature"]),
            }
        return {
            **sampling,
            "beam_size": values["num_beams"],
            "num_hypotheses": values["num_return_sequences"],
            "length_penalty": float(values["length_penalty"]),
            "repetition_penalty": float(values["repetition_penalty"]),
            "no_repeat_ngram_size": values["no_repeat_ngram_size"],
            "suppress_sequences": [vocabulary_words(tokens) for tokens in self.banned] or None,
            "end_token": list(self.ends) or [vocabulary],
            "return_end_token": True,
        }

    def closed(self, tokens: list[int]) -> list[int]:
        """New tokens of one sequence, its end as it was asked for."""
        tokens = tokens[: self.most]
        if self.forced_end is not None and len(tokens) == self.most:
            return [*tokens[:-1], self.forced_end]
        return tokens


def _lengths(
    owner: str, given: dict[str, Any], values: dict[str, Any], length: int, positions: int | None
) -> tuple[int, int]:
    """Most and least tokens to add; an argument goes before a configuration, new tokens before a length."""
    most, least = values["max_new_tokens"], values["min_new_tokens"]
    if values["max_length"] is not None and (most is None or _only(given, "max_length", "max_new_tokens")):
        most = values["max_length"] - length
        if most < 1:
            raise BadValue(
                f"{owner}.generate has no room for a new token: max_length is {values['max_length']}, and {length} "
                "tokens are there already. max_new_tokens counts new ones only."
            )
    if most is None:
        most = NEW_TOKENS if positions is None else max(min(NEW_TOKENS, positions - length), 1)
    if least is None or _only(given, "min_length", "min_new_tokens"):
        least = max((values["min_length"] or 0) - length, 0)
    if least > most:
        raise BadValue(f"{owner}.generate is asked for at least {least} new tokens and at most {most}.")
    return most, least


def _only(given: dict[str, Any], one: str, other: str) -> bool:
    return given.get(one) is not None and given.get(other) is None


def _tokens(value: Any) -> tuple[int, ...]:
    """One token, several or none, as a tuple."""
    if value is None:
        return ()
    if isinstance(value, int):
        return (value,)
    return tuple(int(token) for token in value)
