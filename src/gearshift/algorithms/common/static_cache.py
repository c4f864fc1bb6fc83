"""Generation with key-value caches of fixed size, so that one graph serves every token."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from gearshift.core.change import Change

IDLE = 4  # caches that wait for calls of their shape; captured graphs read them where they lie
UNSET = 20  # transformers' max_length where nobody set one
SERVED = ("greedy_search", "sample")


@dataclass(eq=False)
class StaticGeneration(Change):
    """The change that gives a language model's `generate` static caches.

    Attributes:
        room: most new tokens of a call.
        prompt: the prompt's part of a cache is a multiple of so many tokens.
        notes: sentences for the user; why a kind of call runs without these caches is added once.
    """

    model: Any
    room: int
    prompt: int
    notes: list[str] = field(default_factory=list)

    def apply(self) -> None:
        vars(self.model)["generate"] = _Generate(self.model, self.room, self.prompt, self.notes)

    def revert(self) -> None:
        vars(self.model).pop("generate", None)


class _Generate:
    """Stands in for a model's `generate`.

    A call has a cache to itself: it is taken out of the pool for the call and put back at its end, so calls in other
    threads, calls within calls and calls that were broken off never meet in one. What outlives its call, or takes
    tokens back, is transformers' own cache, which grows.
    """

    def __init__(self, model: Any, room: int, prompt: int, notes: list[str]) -> None:
        self.model, self.room, self.prompt, self.notes = model, room, prompt, notes
        self.pool = Pool()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = type(self.model).generate.__get__(self.model)
        tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
        config = self._settings(args, kwargs)
        reason = self._unfit(tokens, config, kwargs)
        if reason is not None:
            self._tell(reason)
            return own(*args, **kwargs)
        key, length = self._shape(tokens, config)
        cache = self.pool.take(key) or _static(self.model, length)
        if cache is None:
            self._tell(f"{type(self.model).__name__}, whose layers have no static caches")
            return own(*args, **kwargs)
        try:
            return own(*args, **kwargs, past_key_values=cache, disable_compile=True)
        finally:
            self.pool.give(key, cache)

    def _settings(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The generation configuration of a call: its arguments, then the one given with it, then the model's own."""
        given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
        config = copy.deepcopy(self.model.generation_config)
        for values in (given.to_dict() if given is not None else {}, kwargs):
            for name, value in values.items():
                if value is not None and hasattr(config, name):
                    setattr(config, name, value)
        return config

    def _unfit(self, tokens: Any, config: Any, kwargs: dict[str, Any]) -> str | None:
        """Which kind of call this is, if it is one that static caches do not serve."""
        import torch

        def asks(name: str) -> bool:
            return kwargs.get(name, getattr(config, name, None)) is not None

        mode = config.get_generation_mode(kwargs.get("assistant_model")).value
        reasons = {
            "embeddings instead of tokens": not isinstance(tokens, torch.Tensor)
            or tokens.ndim != 2
            or not tokens.numel()
            or kwargs.get("inputs_embeds") is not None,
            "a cache of their own": asks("past_key_values") or asks("cache_implementation"),
            "use_cache=False": config.use_cache is False,
            "return_dict_in_generate, which gives the cache away": bool(config.return_dict_in_generate),
            "prompts read in chunks": asks("prefill_chunk_size"),
            "custom_generate": asks("custom_generate"),
            f"the mode {mode}": mode not in SERVED,
        }
        found = next((reason for reason, so in reasons.items() if so), None)
        if found is None and not getattr(self.model, "_can_compile_fullgraph", False):
            found = f"{type(self.model).__name__}, which transformers does not run with static caches"
        if found is None and self._new(tokens, config) > self.room:
            found = f"more than {self.room} new tokens"
        return found

    def _new(self, tokens: Any, config: Any) -> int:
        """Most new tokens. transformers counts only new ones in a max_length that nobody set."""
        if config.max_new_tokens is not None:
            return int(config.max_new_tokens)
        longest = UNSET if config.max_length is None else int(config.max_length)
        return max(longest - tokens.shape[1], min(longest, UNSET))

    def _shape(self, tokens: Any, config: Any) -> tuple[Hashable, int]:
        """What calls that can use one cache have in common, and how many tokens it holds."""
        import torch

        rows = tokens.shape[0] * (config.num_return_sequences or 1)
        length = -(-tokens.shape[1] // self.prompt) * self.prompt + self.room
        written_in = torch.is_inference_mode_enabled()  # elsewhere such tensors cannot be written to
        return (rows, length, self.model.dtype, self.model.device, written_in), length

    def _tell(self, reason: str) -> None:
        sentence = f"torch_compile: without static caches run calls with {reason}."
        if sentence not in self.notes:
            self.notes.append(sentence)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pool": Pool()}


class Pool:
    """Caches that no call uses, by what the calls that can use them have in common; the newest few are kept."""

    def __init__(self) -> None:
        self.idle: list[tuple[Hashable, Any]] = []
        self.lock = threading.Lock()

    def take(self, key: Hashable) -> Any:
        """A cache as good as new, which is the caller's alone; None if there is none."""
        with self.lock:
            place = next((n for n, (other, _) in enumerate(self.idle) if other == key), None)
            cache = None if place is None else self.idle.pop(place)[1]
        if cache is not None:
            cache.reset()
        return cache

    def give(self, key: Hashable, cache: Any) -> None:
        with self.lock:
            self.idle.append((key, cache))
            del self.idle[:-IDLE]

    def __reduce__(self) -> tuple:
        return Pool, ()


def _static(model: Any, length: int) -> Any:
    """An empty cache for so many tokens; None if a layer has no static kind."""
    from transformers import StaticCache

    try:
        return StaticCache(config=model.config, max_cache_len=length)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
