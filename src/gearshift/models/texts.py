"""Token ids however they come, and how many of them a language model has positions for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gearshift.core.errors import BadRecipe, GearshiftWarning, quoted
from gearshift.core.examples import examples

POSITIONS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "max_seq_length"),
    *("max_target_positions", "seq_length", "context_length", "max_context_len", "model_max_length"),
)


def positions(model: Any) -> int | None:
    """Tokens that a model reads at most, as its configuration says it, stretched positions included; None if nowhere.

    Composite configurations say it of their text part.
    """
    config = getattr(model, "config", None)
    inner = getattr(config, "text_config", None) or getattr(config, "decoder", None)
    for holder in (config, inner):
        told = [getattr(holder, name, None) for name in POSITIONS]
        found = [n for n in told if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        if found:
            return max(min(found), _stretched(holder))
    return None


def _stretched(config: Any) -> int:
    """Positions that a rotary embedding was stretched to; 0 if it was not."""
    scaling = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None)
    if not isinstance(scaling, Mapping):
        return 0
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in (original, factor))
    return int(original * factor) if numbers else 0  # type: ignore[operator]


def texts(data: Any) -> Iterator[Any]:
    """Examples with token ids as int64 tensors [rows, tokens]; lists and arrays of them, in dicts too, are made such.

    A flat list of token ids is one example. Strings and whatever else there is stay as they are.

    Raises:
        BadRecipe: for data that cannot be gone through, or lists of anything but token ids.
    """
    given = examples(data)
    found: Iterable[Any] = () if given is None else given
    if isinstance(found, Sequence) and found and isinstance(found[0], int):
        found = [found]
    for item in found:
        yield as_tokens(item)


def as_tokens(item: Any) -> Any:
    """One example of `texts`; rows of unequal length are filled up on the right and get a mask."""
    if isinstance(item, Mapping):
        return {k: _tensor(v) if isinstance(v, Sequence) and _numbers(v) else _array(v) for k, v in item.items()}
    if isinstance(item, (list, tuple)):
        if _ragged(item):
            return _padded(item)
        if not _numbers(item):
            raise BadRecipe([f"An example is a text, token ids, or a dict of them. Got {quoted(item)} instead."])
        return _tensor(item)
    item = _array(item)
    whole = isinstance(item, torch.Tensor) and not item.is_floating_point() and not item.is_complex()
    return item.long()[None] if whole and item.ndim == 1 else item.long() if whole and item.ndim == 2 else item


def cut_to_positions(model: Any, items: Iterable[Any]) -> list[Any]:
    """Examples cut to the positions that a model has; a warning says once that some were longer."""
    most, longest, found = positions(model), 0, []
    for item in items:
        named = {"": item} if isinstance(item, torch.Tensor) else item
        if most is not None and isinstance(named, Mapping):
            lengths = [t.shape[-1] for t in named.values() if _holds_tokens(t)]
            longest = max([longest, *lengths])
            cut = {k: t[..., :most] if _holds_tokens(t) else t for k, t in named.items()}
            item = cut[""] if isinstance(item, torch.Tensor) else cut
        found.append(item)
    if most is not None and longest > most:
        warnings.warn(
            f"The longest example has {longest} tokens and {type(model).__name__} has {most} positions; what is beyond "
            "them was left out.",
            GearshiftWarning,
            stacklevel=2,
        )
    return found


def _holds_tokens(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2 and not value.is_floating_point()


def _array(value: Any) -> Any:
    return torch.as_tensor(value) if hasattr(value, "__array_interface__") else value


def _tensor(rows: Any) -> torch.Tensor:
    try:
        made = torch.as_tensor(rows, dtype=torch.long)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRecipe([f"Token ids are ints of 64 bits. Got {quoted(rows)} instead."]) from error
    return made[None] if made.ndim == 1 else made


def _numbers(rows: Any) -> bool:
    """Whether this is a list of ints, or a list of equally long ones."""
    if rows and all(isinstance(row, (list, tuple)) for row in rows):
        return len({len(row) for row in rows}) == 1 and all(map(_numbers, rows))
    return bool(rows) and all(isinstance(n, int) and not isinstance(n, bool) for n in rows)


def _ragged(rows: Any) -> bool:
    lists = bool(rows) and all(isinstance(row, (list, tuple)) and _numbers(row) for row in rows)
    return lists and len({len(row) for row in rows}) > 1


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    filled = [[*row, *[0] * (longest - len(row))] for row in rows]
    masks = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": _tensor(filled), "attention_mask": _tensor(masks)}
