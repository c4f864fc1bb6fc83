"""The first calls of a model, made in advance: what is compiled or captured for each size is there afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gearshift.core.errors import BadValue, quoted
from gearshift.core.examples import first
from gearshift.core.progress import progress
from gearshift.core.record import record_of
from gearshift.models.example import quietly, reads_prompts
from gearshift.models.speed import once


@dataclass(frozen=True)
class Warmed:
    """One size that a model was called with.

    Attributes:
        size: in words.
        first: wall-clock seconds of its first call.
        later: of its second.
        graphs: that the first made.
    """

    size: str
    first: float
    later: float
    graphs: int

    def __str__(self) -> str:
        return f"{self.size}: {self.first:.1f} s, then {self.later:.2f} s; graphs made: {self.graphs}"


def warm_up(
    model: Any,
    resolutions: Iterable[tuple[int, int]] | None = None,
    batch_sizes: Iterable[int] = (1,),
    lengths: Iterable[int] | None = None,
    steps: int | None = None,
    data: Any = None,
) -> list[Warmed]:
    """Call a model twice at each size. `gearshift.warm_up` says what the arguments are."""
    found, sizes = [], list(_sizes(model, resolutions, batch_sizes, lengths, steps, data))
    with progress("warming up", len(sizes)) as bar:
        for number, (size, call) in enumerate(sizes):
            bar.update(number, what=f"warming up: {size}")
            before = _graphs(model)
            first = once(call)
            graphs = _graphs(model) - before
            found.append(Warmed(size, first, once(call), graphs))
    return found


def _sizes(
    model: Any,
    resolutions: Iterable[tuple[int, int]] | None,
    batch_sizes: Iterable[int],
    lengths: Iterable[int] | None,
    steps: int | None,
    data: Any,
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each size in words, and a call of it.

    Raises:
        BadValue: for sizes that the model has none of, or a model of which no call is known.
    """
    batches = _positive("batch_sizes", batch_sizes)
    _positive("steps", [1 if steps is None else steps])
    if not hasattr(model, "forward") and hasattr(model, "scheduler"):
        if lengths is not None:
            raise BadValue("A pipeline is warmed up at resolutions and batch sizes; `lengths` is for language models.")
        yield from _of_pipeline(model, resolutions, batches, steps, data)
    elif hasattr(model, "generate") and not getattr(model.config, "is_encoder_decoder", False):
        if resolutions is not None or steps is not None:
            raise BadValue("A language model is warmed up at lengths and batch sizes; it has no resolution or steps.")
        yield from _of_language(model, batches, _positive("lengths", (32,) if lengths is None else lengths))
    else:
        raise BadValue(f"Of {type(model).__name__} no call is known; call it yourself at each size to warm it up.")


def _of_pipeline(
    pipe: Any, resolutions: Iterable[tuple[int, int]] | None, batches: list[int], steps: int | None, data: Any
) -> Iterator[tuple[str, Callable[[], Any]]]:
    known = inspect.signature(type(pipe).__call__).parameters
    empty = {"prompt": ""} if reads_prompts(pipe) else None
    given = empty if data is None else first(data)
    if not isinstance(given, Mapping):
        raise BadValue(f"{type(pipe).__name__} is warmed up with `data`: a list of one dict of the call's arguments.")
    if resolutions is not None and not {"height", "width"} <= set(known):
        raise BadValue(f"The call of {type(pipe).__name__} takes no height and width, so it has no other resolutions.")
    shared = {k: v for k, v in given.items() if k != "generator"}
    if steps is not None:
        shared["num_inference_steps"] = steps
    for resolution in [None] if resolutions is None else _pairs(resolutions):
        sized = dict(shared)
        if resolution is not None:
            sized["height"], sized["width"] = resolution
        for batch in batches:
            words = "" if resolution is None else f"{sized['height']} x {sized['width']}, "
            yield f"{words}batch {batch}", partial(quietly, pipe, _batched(sized, batch))


def _of_language(model: Any, batches: list[int], lengths: list[int]) -> Iterator[tuple[str, Callable[[], Any]]]:
    import torch

    device = next((p.device for p in getattr(model, "parameters", list)()), "cpu")
    for length in lengths:
        for batch in batches:
            tokens = torch.ones(batch, length, dtype=torch.long, device=device)
            given = {"input_ids": tokens, "max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
            given["attention_mask"] = torch.ones_like(tokens)
            yield f"{length} tokens, batch {batch}", partial(model.generate, **given)


def _batched(call: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The arguments for so many at once: prompts and labels, in lists or as embeddings, go round."""
    import torch

    found = dict(call)
    for name, value in call.items():
        if not ("prompt" in name or "label" in name) or value is None:
            continue
        if isinstance(value, torch.Tensor):
            found[name] = value[torch.arange(batch) % len(value)]
        else:
            items = [value] if isinstance(value, (str, int)) else value
            found[name] = [items[i % len(items)] for i in range(batch)]
    return found


def _graphs(model: Any) -> int:
    record = record_of(model)
    return sum(a.figures.get("graphs", 0) for a in record.applied) if record else 0


def _pairs(resolutions: Any) -> list[tuple[int, int]]:
    found = list(resolutions) if isinstance(resolutions, Iterable) else [resolutions]
    for pair in found:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise BadValue(f"resolutions are (height, width) pairs. Got {quoted(pair)} instead.")
        _positive("resolutions", pair)
    return found


def _positive(name: str, values: Any) -> list[int]:
    found = list(values) if isinstance(values, Iterable) else []
    if not found or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in found):
        raise BadValue(f"{name} has to list whole numbers of 1 or more. Got {quoted(values)} instead.")
    return found
