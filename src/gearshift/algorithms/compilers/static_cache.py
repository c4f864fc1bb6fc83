"""Generation with key-value caches of fixed size, so that one graph serves every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class StaticGeneration:
    """The change that gives a language model's `generate` static caches.

    Caches are kept and reset between calls, as captured CUDA graphs read them where they lie. Calls that bring a cache
    of their own, that ask for another kind or for beams, or for more tokens than there is room, run as they are.

    Attributes:
        room: most new tokens of a call.
        prompt: the prompt's part of a cache is a multiple of so many tokens.
    """

    model: Any
    room: int
    prompt: int

    def lay(self) -> None:
        vars(self.model)["generate"] = _Generate(self.model, self.room, self.prompt)

    def lift(self) -> None:
        vars(self.model).pop("generate", None)

    def why_not(self) -> None:
        return None


class _Generate:
    """Stands in for a model's `generate`."""

    def __init__(self, model: Any, room: int, prompt: int) -> None:
        self.model, self.room, self.prompt = model, room, prompt
        self.caches: dict[tuple[int, int], Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = type(self.model).generate.__get__(self.model)
        tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
        if tokens is None or not self._fits(tokens, kwargs):
            return own(*args, **kwargs)
        rounds = -(-tokens.shape[1] // self.prompt)
        cache = self._cache(tokens.shape[0], rounds * self.prompt + self.room)
        return own(*args, **kwargs, past_key_values=cache, disable_compile=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "caches": {}}

    def _fits(self, tokens: Any, kwargs: dict[str, Any]) -> bool:
        config = kwargs.get("generation_config") or self.model.generation_config

        def asked(name: str, default: Any = None) -> Any:
            found = kwargs.get(name, getattr(config, name, None))
            return default if found is None else found

        own_way = any(kwargs.get(n) is not None for n in ("past_key_values", "cache_implementation"))
        new = asked("max_new_tokens") or asked("max_length", 20) - tokens.shape[1]
        beams = asked("num_beams", 1) * asked("num_return_sequences", 1)
        return not own_way and beams == 1 and asked("use_cache", True) and new <= self.room

    def _cache(self, batch: int, length: int) -> Any:
        from transformers import StaticCache

        cache = self.caches.get((batch, length))
        if cache is None:
            cache = self.caches[batch, length] = StaticCache(config=self.model.config, max_cache_len=length)
        else:
            cache.reset()
        return cache
