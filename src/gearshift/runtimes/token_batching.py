"""Prompts in and sequences out: between transformers' padded tensors and CTranslate2's lists of unequal length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gearshift.core.errors import BadValue
from gearshift.models.texts import as_tokens


def is_text(given: Any) -> bool:
    """Whether prompts were given as a string or as strings."""
    return isinstance(given, str) or (isinstance(given, (list, tuple)) and bool(given) and isinstance(given[0], str))


def read_text(given: Any, tokenizer: Any) -> list[list[int]]:
    """The tokens of each text.

    Raises:
        BadValue: if there is no tokenizer.
    """
    if tokenizer is None:
        raise BadValue("Text needs a tokenizer: give one when optimizing (tokenizer=...), or token ids here.")
    return [list(tokenizer(text).input_ids) for text in ([given] if isinstance(given, str) else given)]


def write_text(given: Any, sequences: list[list[int]], tokenizer: Any) -> Any:
    """Texts without special tokens; one by itself where one was given."""
    texts = tokenizer.batch_decode(sequences, skip_special_tokens=True)
    return texts[0] if isinstance(given, str) and len(texts) == 1 else texts


def read_tokens(given: Any, mask: Any) -> tuple[Any, Any]:
    """Token ids as a tensor [prompts, tokens] and their mask, from lists, arrays and dicts of them too.

    Raises:
        BadRecipe: for lists of anything else.
    """
    found = as_tokens(given)
    if isinstance(found, Mapping):
        return found.get("input_ids"), found.get("attention_mask", as_tokens(mask))
    return found, as_tokens(mask)


def width(input_ids: Any, vocabulary: int) -> int:
    """Tokens in a row of a tensor of prompts.

    Raises:
        BadValue: if it is none, or holds tokens that are not in the vocabulary.
    """
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2 or not input_ids.numel():
        shape = list(input_ids.shape) if isinstance(input_ids, torch.Tensor) else type(input_ids).__name__
        raise BadValue(f"input_ids must be an int64 tensor [prompts, tokens], or text. Got {shape} instead.")
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocabulary:
        raise BadValue(f"input_ids are tokens from 0 to {vocabulary - 1}. Got {low if low < 0 else high} among them.")
    return int(input_ids.shape[1])


def without_padding(input_ids: torch.Tensor, mask: Any, pad: int, ends: tuple[int, ...]) -> list[list[int]]:
    """Each prompt's tokens; without a mask, padding tokens are padding unless they end sequences as well."""
    if mask is None:
        mask = torch.ones_like(input_ids) if pad in ends else input_ids != pad
    rows = [row[keep].tolist() for row, keep in zip(input_ids, mask.bool(), strict=True)]
    if not all(rows):
        raise BadValue("Every prompt needs at least one token that is not padding.")
    return rows


def padded(rows: list[list[int]], pad: int) -> torch.Tensor:
    """Rows of unequal length as an int64 tensor, filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], dtype=torch.long)


def vocabulary_words(tokens: Any) -> list[str]:
    """Token ids as the words of the converted vocabulary."""
    return [str(token) for token in tokens]


def listener(streamer: Any, callback: Callable[[int, int], Any] | None, prompts: torch.Tensor, beams: int) -> Any:
    """A function of (row, token) that tells a transformers streamer and a callback; None if there is neither.

    Raises:
        BadValue: with beams, whose tokens are not known before the end, or a streamer with more than one prompt.
    """
    if streamer is None and callback is None:
        return None
    if beams > 1:
        raise BadValue("Tokens can be told one by one only without beams: num_beams=1 with a streamer or a callback.")
    if streamer is not None and len(prompts) > 1:
        raise BadValue(f"A streamer follows one prompt; there are {len(prompts)}. A callback is told each one's row.")
    if streamer is not None:
        streamer.put(prompts)

    def tell(row: int, token: int) -> bool:
        if streamer is not None:
            streamer.put(torch.tensor([token]))
        return bool(callback(row, token)) if callback is not None else False

    return tell


def token_callback(tell: Any, group: list[int], sequences: int, skipped: int = 0) -> Any:
    """The engine's callback for a function of (row, token).

    Args:
        group: the prompts that the engine is given, by their places in the batch.
        sequences: of each prompt.
        skipped: steps at the start that only read a prompt.
    """
    if tell is None:
        return None

    def step(result: Any) -> bool:
        if result.step < skipped:
            return False
        row = group[result.batch_id // sequences] * sequences + result.batch_id % sequences
        return bool(tell(row, result.token_id))

    return step
