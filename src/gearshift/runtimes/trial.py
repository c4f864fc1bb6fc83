"""What a converted model is tried on before it takes the model's place: short calls, and calls past every bound."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from gearshift.core.errors import GearshiftError, told

SHORT, LONG = 16, 512  # tokens that every model is tried with; positions end some sooner
PAST = 32  # tokens past a bound from which on something else is computed
LONGEST = 8192 + PAST  # tokens that are tried at most; a bound beyond them cannot be
BOUNDS = re.compile(r"window(?!_layers)|original_max_position|attention_chunk|max_distance")
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_target_positions")
FAITHFUL, COARSE = 35.0, 15.0  # dB that 16 bits must reach beside float32 or float16, and beside bfloat16
ROUNDED = 25.0  # dB above which 8 bits differ by rounding; below, 16 bits are to tell
WORSE = 3.0  # dB by which long calls may be worse than short ones before 16 bits are to tell


def lengths(name: str, config: Any, new: int) -> list[int]:
    """Tokens of the prompts to try, `new` fewer than there are positions at most, the shortest first.

    Raises:
        GearshiftError: if a bound of the configuration lies further than what can be tried.
    """
    known = (getattr(config, n, None) for n in POSITIONS)
    most = next((n for n in known if isinstance(n, int) and n > 0), LONG + new) - new
    found = {max(min(SHORT, most), 1), max(min(LONG, most), 1)}
    for field, bound in bounds(config.to_dict()):
        if bound + PAST > most:
            continue
        if bound + PAST > LONGEST:
            raise GearshiftError(
                f"{name}: the model computes something else from {bound} tokens on ({field}), which is more than is "
                "tried here. The model was left as it was."
            )
        found.add(bound + PAST)
    return sorted(found)


def bounds(config: dict[Any, Any]) -> Iterator[tuple[str, int]]:
    """Numbers of tokens from which on a model computes something else, with the fields that give them."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from bounds(value)
        elif BOUNDS.search(str(name)) and type(value) is int and value > 0 and config.get(f"use_{name}", True):
            yield name, value


def agreement(made: Any, model: Any, seed: int, tokens: int) -> float:
    """How well log-probabilities agree in a call of so many tokens, in dB; what has no chance in either is left out.

    Raises:
        GearshiftError: if the engine cannot run what it was given.
    """
    try:
        exact, rounded = made.difference(model, seed, tokens)
    except (RuntimeError, ValueError) as error:
        raise GearshiftError(
            f"CTranslate2 converted {type(model).__name__}, but cannot run it on {tokens} tokens: {told(error)}"
        ) from error
    seen = exact.isfinite() & rounded.isfinite()
    noise = (rounded[seen] - exact[seen]).square().mean().clamp(min=1e-12)
    return float(10 * (exact[seen].var(correction=0) / noise).log10())


def tried(name: str, made: Any, model: Any, seed: int, wide: Any) -> float:
    """The worst agreement over all lengths, in dB.

    Args:
        made: the converted model.
        wide: makes the same at 16 bits, which tell rounding from mistakes; None if `made` has them.

    Raises:
        GearshiftError: if the engine computes something else than the model.
    """
    sizes = made.lengths(name)
    found = [agreement(made, model, seed, tokens) for tokens in sizes]
    if wide is None:
        _refuse(name, model, sizes, found)
    elif min(found) < ROUNDED or min(found) < found[0] - WORSE:
        other = wide()
        _refuse(name, model, sizes, [agreement(other, model, seed, tokens) for tokens in sizes])
    return min(found)


def _refuse(name: str, model: Any, sizes: list[int], found: list[float]) -> None:
    floor = COARSE if model.dtype == torch.bfloat16 else FAITHFUL
    for tokens, ratio in zip(sizes, found, strict=True):
        if not ratio >= floor:
            raise GearshiftError(
                f"{name} converted {type(model).__name__}, but CTranslate2 computes something else: at 16 bits its "
                f"log-probabilities agree with the model's to {ratio:.1f} dB only after {tokens} tokens. The model was "
                "left as it was."
            )
