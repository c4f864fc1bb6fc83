"""Encoder-decoder models of text by CTranslate2: translation, summaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gearshift.core.errors import BadValue
from gearshift.core.facts import Kind
from gearshift.runtimes.conversion import SEQUENCES
from gearshift.runtimes.ctranslate import CTranslateModel
from gearshift.runtimes.decoding import ARGUMENTS, Decoding
from gearshift.runtimes.token_batching import (
    is_text,
    listener,
    padded,
    read_text,
    token_callback,
    vocabulary_words,
    width,
    without_padding,
    write_text,
)

KNOWN = (*ARGUMENTS, "decoder_start_token_id", "forced_bos_token_id")


class Translator(CTranslateModel):
    """An encoder-decoder of text that CTranslate2 runs; `generate` is called as transformers' is."""

    kind = Kind.LANGUAGE
    engine_name = "Translator"
    endings = SEQUENCES
    noun = "encoder-decoders of text"

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
        """Translate, or whatever the model was trained for.

        Greedy and sampled tokens follow transformers' rules. A beam search ends at its num_beams-th finished sequence,
        as with transformers' early_stopping=True. The token that decoding starts with does not count as having come
        before for repetition_penalty and no_repeat_ngram_size.

        Args:
            input_ids: int64 [texts, tokens] of the source; or a string, or a list of strings where there is a
                tokenizer.
            attention_mask: [texts, tokens], 0 at padding, on either side; absent, padding tokens are padding unless
                they end sequences as well.
            generation_config: goes before the model's own; arguments go before both.
            seed: of the sampling; weights are read anew for it. None: another one each time.
            streamer: transformers' way to be told of tokens: `put` and `end`; one text.
            callback: called with (row, token) of each new token; the row ends where it returns True.
            given: as for a causal model, and decoder_start_token_id, forced_bos_token_id.

        Returns:
            int64 [texts * num_return_sequences, tokens], the start token first, padded; or, for strings, texts: a
            string for a string, else a list.

        Raises:
            BadValue: for an argument that it has not got, and for values out of bounds.
        """
        text = is_text(input_ids)
        rows = read_text(input_ids, self.tokenizer) if text else []
        if not text:
            width(input_ids, self.vocabulary)
        decoding = self._decoding(KNOWN, given, generation_config, length=1)
        rows = rows or without_padding(input_ids, attention_mask, decoding.pad, decoding.ends)
        prefix = self._prefix(given, generation_config)
        tell = listener(streamer, callback, torch.tensor([prefix[:1]] * len(rows)), decoding.values["num_beams"])
        added = self._seeded(seed if decoding.draws else None, lambda: self._run(rows, prefix, decoding, tell))
        if streamer is not None:
            streamer.end()
        return (
            write_text(input_ids, added, self.tokenizer)
            if text
            else padded([prefix[:1] + a for a in added], decoding.pad)
        )

    def difference(self, model: Any, seed: int, tokens: int) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(seed)
        source, target = torch.randint(0, self.vocabulary, (2, 1, tokens), generator=generator)
        with torch.no_grad():
            output = model(input_ids=source.to(model.device), decoder_input_ids=target.to(model.device))
        exact = output.logits[0, :-1].float().log_softmax(-1).cpu().gather(1, target[0, 1:, None])[:, 0]
        (made,) = self.engine.score_batch(
            [vocabulary_words(source[0].tolist())], [vocabulary_words(target[0].tolist())]
        )
        return exact, torch.tensor(made.log_probs[: tokens - 1])

    def _prefix(self, given: dict[str, Any], config: Any) -> list[int]:
        """What a sequence begins with: the start token, and a language's where one is asked for."""
        found = []
        for name in ("decoder_start_token_id", "forced_bos_token_id"):
            sources = (given.get(name), *(getattr(c, name, None) for c in (config, self.generation_config)))
            found += [value for value in sources if value is not None][:1]
            if not found:
                raise BadValue("The model's configuration has no decoder_start_token_id: give one.")
        return found

    def _run(self, rows: list[list[int]], prefix: list[int], decoding: Decoding, tell: Any) -> list[list[int]]:
        """The tokens of each text and sequence, the start token left out."""
        results = self.engine.translate_batch(
            [vocabulary_words(row) for row in rows],
            target_prefix=[vocabulary_words(prefix)] * len(rows),
            max_input_length=0,
            max_decoding_length=decoding.most,
            min_decoding_length=decoding.least if decoding.ends else 0,
            callback=token_callback(tell, list(range(len(rows))), decoding.sequences),
            **decoding.options(self.vocabulary),
        )
        return [decoding.closed([int(word) for word in found]) for result in results for found in result.hypotheses]
