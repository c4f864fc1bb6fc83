"""Whisper in torch: transformers' model, decoded a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gearshift.runtimes.speech.alignment import token_frames
from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.engines import Output, features
from gearshift.runtimes.speech.rules import Rules
from gearshift.runtimes.speech.tokens import TICK, Tokens


class TorchEngine:
    """A transformers Whisper behind the calls of `Engine`."""

    def __init__(self, model: Any, extractor: Any) -> None:
        self.model, self.extractor = model, extractor
        self.tokens = Tokens.of(model.config, model.generation_config)

    @torch.inference_mode()
    def encode(self, pieces: Sequence[np.ndarray]) -> torch.Tensor:
        sound = features(self.extractor, pieces, self.tokens.window)
        return self.model.get_encoder()(sound.to(self.model.device, self.model.dtype)).last_hidden_state

    def pick(self, encoded: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return encoded[list(rows)]

    @torch.inference_mode()
    def languages(self, encoded: torch.Tensor) -> list[str | None]:
        if not self.tokens.languages:
            return [None] * len(encoded)
        names, codes = zip(*self.tokens.languages.items(), strict=True)
        logits = self._step(encoded, [[self.tokens.start]] * len(encoded)).logits[:, -1]
        return [names[n] for n in logits[:, list(codes)].argmax(-1).tolist()]

    @torch.inference_mode()
    def decode(
        self, encoded: torch.Tensor, prompts: Sequence[Sequence[int]], temperature: float, seeds: Sequence[int]
    ) -> list[Output]:
        draws = [torch.Generator(encoded.device).manual_seed(seed) for seed in seeds]
        out = self._step(encoded, prompts)
        silence = out.logits[:, 0].float().softmax(-1)[:, self.tokens.no_speech].tolist()
        rules = Rules(self.tokens, out.logits.shape[-1], len(encoded), encoded.device)
        total, said = torch.zeros(len(encoded), device=encoded.device), []
        for _ in range(self.tokens.most):
            scores = rules(out.logits[:, -1])
            token = _drawn(scores / temperature, draws) if temperature > 0 else scores.argmax(-1)
            total += scores.gather(-1, token[:, None])[:, 0].masked_fill(rules.done, 0.0)
            said.append(token.masked_fill(rules.done, self.tokens.end))
            rules.take(said[-1])
            if rules.done.all():
                break
            out = self._step(encoded, said[-1][:, None], out.past_key_values)
        rows = [self._until_end(row) for row in torch.stack(said, dim=1).tolist()]
        means = [float(t) / (len(row) + 1) for t, row in zip(total, rows, strict=True)]
        return [Output(tuple(r), m, s) for r, m, s in zip(rows, means, silence, strict=True)]

    @torch.inference_mode()
    def align(
        self,
        encoded: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Sequence[int]],
        lengths: Sequence[int],
    ) -> list[np.ndarray]:
        found = []
        for n, (prompt, text, length) in enumerate(zip(prompts, texts, lengths, strict=True)):
            given = [*prompt, self.tokens.first_time - 1, *text, self.tokens.end]
            frames = min(max(round(length / RATE / TICK), 1), encoded.shape[1])
            with _watched(self.model, self.tokens.heads) as attention:
                self._step(encoded[n : n + 1], [given])
            weights = attention()[:, len(prompt) : -1, :frames]
            found.append(token_frames(weights.softmax(-1).cpu().numpy()) * TICK)
        return found

    def _step(self, encoded: torch.Tensor, tokens: Any, cache: Any = None) -> Any:
        ids = torch.as_tensor(tokens, dtype=torch.long, device=encoded.device)
        return self.model(encoder_outputs=(encoded,), decoder_input_ids=ids, past_key_values=cache, use_cache=True)

    def _until_end(self, row: list[int]) -> list[int]:
        return row[: row.index(self.tokens.end)] if self.tokens.end in row else row


def _drawn(logits: torch.Tensor, draws: Sequence[torch.Generator]) -> torch.Tensor:
    """A token of each row [rows], each by its own generator: what else is in the batch must not matter."""
    shares = logits.softmax(-1)
    return torch.cat([torch.multinomial(row, 1, generator=draw) for row, draw in zip(shares, draws, strict=True)])


@contextmanager
def _watched(model: Any, heads: Sequence[tuple[int, int]]) -> Iterator[Callable[[], torch.Tensor]]:
    """Listen to the decoder's cross-attention; gives what returns logits [heads, tokens, frames], float32.

    Queries and keys are read where they are projected, since fast attention keeps no weights.
    """
    layers, seen = model.get_decoder().layers, {}
    hooks = []
    for layer in {layer for layer, _ in heads}:
        for name in ("q_proj", "k_proj"):

            def keep(_module: Any, _args: Any, out: torch.Tensor, key: tuple[int, str] = (layer, name)) -> None:
                seen[key] = out[0].float()

            hooks.append(getattr(layers[layer].encoder_attn, name).register_forward_hook(keep))

    def logits() -> torch.Tensor:
        size = layers[0].encoder_attn.head_dim
        part = [slice(head * size, (head + 1) * size) for _, head in heads]
        pairs = [(seen[layer, "q_proj"], seen[layer, "k_proj"]) for layer, _ in heads]
        return torch.stack([q[:, p] @ k[:, p].T for (q, k), p in zip(pairs, part, strict=True)]) * size**-0.5

    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()
