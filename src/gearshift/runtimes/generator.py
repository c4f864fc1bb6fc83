"""Causal language models by CTranslate2."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from gearshift.core.facts import Kind
from gearshift.runtimes.conversion import CAUSAL, engine
from gearshift.runtimes.ctranslate import NEW, CTranslateModel
from gearshift.runtimes.decoding import ARGUMENTS, Decoding
from gearshift.runtimes.token_batching import (
    is_text,
    listener,
    padded,
    read_text,
    read_tokens,
    token_callback,
    vocabulary_words,
    width,
    without_padding,
    write_text,
)


class CausalGenerator(CTranslateModel):
    """A causal language model that CTranslate2 runs; `generate` is called as transformers' is."""

    kind = Kind.LANGUAGE
    engine_name = "Generator"
    endings = CAUSAL
    noun = "causal language models"

    def generate(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        generation_config: Any = None,
        seed: int | None = None,
        streamer: Any = None,
        callback: Callable[[int, int], Any] | None = None,
        **given: Any,
    ) -> Any:
        """Continue prompts.

        Greedy and sampled tokens follow transformers' rules. A beam search ends at its num_beams-th finished sequence,
        as with transformers' early_stopping=True. For repetition_penalty and no_repeat_ngram_size the prompt is read
        token by token, and its first token does not count as having come before.

        Args:
            input_ids: int64 [prompts, tokens], lists of token ids, or what a tokenizer gives; or a string, or a list of
                strings, where there is a tokenizer.
            attention_mask: [prompts, tokens], 0 at padding, on either side; absent, padding tokens are padding unless
                they end sequences as well.
            generation_config: goes before the model's own; arguments go before both.
            seed: of the sampling; weights are read anew for it. None: another one each time.
            streamer: transformers' way to be told of tokens: `put` and `end`; one prompt.
            callback: called with (row, token) of each new token; the row ends where it returns True.
            given: max_new_tokens, max_length, min_new_tokens, min_length, do_sample, temperature, top_k, top_p,
                num_beams, num_return_sequences, length_penalty, repetition_penalty, no_repeat_ngram_size,
                eos_token_id, forced_eos_token_id, pad_token_id, bad_words_ids, suppress_tokens.

        Returns:
            int64 [prompts * num_return_sequences, tokens]: the prompts as given, what was added, and padding; or, for
            strings, the whole texts: a string for a string, else a list.

        Raises:
            BadValue: for an argument that it has not got, and for values out of bounds.
        """
        text = is_text(input_ids)
        rows = read_text(input_ids, self.tokenizer) if text else []
        if not text:
            input_ids, attention_mask = read_tokens(input_ids, attention_mask)
        length = max(map(len, rows)) if text else width(input_ids, self.vocabulary)
        decoding = self._decoding(ARGUMENTS, given, generation_config, length)
        rows = rows or without_padding(input_ids, attention_mask, decoding.pad, decoding.ends)
        prompts = padded(rows, decoding.pad) if text else input_ids.cpu().long()
        tell = listener(streamer, callback, prompts, decoding.values["num_beams"])
        added = self._seeded(seed if decoding.draws else None, lambda: self._run(rows, decoding, tell))
        if streamer is not None:
            streamer.end()
        if text:
            whole = [rows[n // decoding.sequences] + tokens for n, tokens in enumerate(added)]
            return write_text(input_ids, whole, self.tokenizer)
        return torch.cat([prompts.repeat_interleave(decoding.sequences, 0), padded(added, decoding.pad)], dim=1)

    def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [1, tokens, vocabulary], float32, of a text's tokens [1, tokens], each given those up to it."""
        made = self.engine.forward_batch([vocabulary_words(input_ids[0].tolist())])
        found = made.to_device(engine().Device.cpu).to(engine().DataType.float32)
        return torch.from_numpy(np.array(found))

    def difference(self, model: Any, seed: int, tokens: int) -> tuple[Any, Any]:
        """The prompt is read as a whole, and then greedy tokens one by one; the model is given the same tokens."""
        prompt = torch.randint(0, self.vocabulary, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
        (result,) = self.engine.generate_batch(
            [vocabulary_words(prompt)],
            max_length=NEW,
            sampling_topk=1,
            end_token=[self.vocabulary],
            include_prompt_in_result=False,
            return_logits_vocab=True,
        )
        made = [np.array(step.to_device(engine().Device.cpu)) for step in result.logits[0]]
        given = torch.tensor([[*prompt, *result.sequences_ids[0][: NEW - 1]]], device=model.device)
        with torch.no_grad():
            exact = last_logits(model, given, NEW)
        return exact.log_softmax(-1), torch.from_numpy(np.stack(made)).float().view(exact.shape).log_softmax(-1)

    def _run(self, rows: list[list[int]], decoding: Decoding, tell: Any) -> list[list[int]]:
        """New tokens of each prompt and sequence."""
        added: dict[int, list[list[int]]] = {}
        for group in _groups(rows, decoding.looks_back):
            skipped = len(rows[group[0]]) - 1 if decoding.looks_back else 0
            results = self.engine.generate_batch(
                [vocabulary_words(rows[n]) for n in group],
                max_length=skipped + decoding.most,
                min_length=skipped + decoding.least if decoding.ends else 0,
                include_prompt_in_result=decoding.looks_back,
                callback=token_callback(tell, group, decoding.sequences, skipped),
                **decoding.options(self.vocabulary),
            )
            for n, result in zip(group, results, strict=True):
                start = len(rows[n]) if decoding.looks_back else 0
                added[n] = [decoding.closed(list(ids[start:])) for ids in result.sequences_ids]
        return [tokens for n in range(len(rows)) for tokens in added[n]]


def last_logits(model: Any, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Logits [count, vocabulary] of the last tokens of [1, tokens], float32 on the CPU."""
    able = "logits_to_keep" in inspect.signature(model.forward).parameters  # the others need not be computed
    return model(input_ids=tokens, **({"logits_to_keep": count} if able else {})).logits[0, -count:].float().cpu()


def _groups(rows: list[list[int]], by_length: bool) -> Iterator[list[int]]:
    """Which prompts go together; where the engine counts a prompt as generated, those of one length."""
    if not by_length:
        yield list(range(len(rows)))
        return
    for length in sorted({len(row) for row in rows}):
        yield [n for n, row in enumerate(rows) if len(row) == length]
