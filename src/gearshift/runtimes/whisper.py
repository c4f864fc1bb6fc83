"""Whisper by CTranslate2."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import GenerationMixin
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from gearshift.core.errors import BadValue
from gearshift.core.facts import Kind
from gearshift.persist.libraries.transformers import LOCAL
from gearshift.runtimes.conversion import SPEECH, engine
from gearshift.runtimes.ctranslate import CTranslateModel
from gearshift.runtimes.decoding import MOST, refuse_unknown
from gearshift.runtimes.token_batching import padded

KNOWN = (
    "attention_mask",
    "compression_ratio_threshold",
    "condition_on_prev_tokens",
    "generation_config",
    "is_multilingual",
    "language",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "monitor_progress",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "prompt_condition_type",
    "prompt_ids",
    "repetition_penalty",
    "return_segments",
    "return_timestamps",
    "task",
    "temperature",
    "top_k",
)


class WhisperGenerator(CTranslateModel):
    """Whisper that CTranslate2 runs; `generate` is called as transformers' is.

    Attributes:
        processor: makes features of sound and text of tokens; None if none was given.
    """

    kind = Kind.SPEECH
    engine_name = "models.Whisper"
    endings = SPEECH
    noun = "a speech model"
    reader = "processor"

    @property
    def processor(self) -> Any:
        return self.tokenizer

    def generate(self, input_features: Any, *, seed: int | None = None, **given: Any) -> Any:
        """Transcribe or translate sound.

        All around the decoding of a window of 30 seconds is transformers' own: language and task, windows of longer
        recordings, segments, falling back to higher temperatures.

        Args:
            input_features: floating point [recordings, mel bins, frames]; 3000 frames are 30 seconds.
            seed: of the sampling at temperatures above 0; weights are read anew for it.
            given: language, task, return_timestamps, max_new_tokens, max_length, num_beams, num_return_sequences,
                length_penalty, repetition_penalty, no_repeat_ngram_size, temperature (one, or several to fall back
                to), top_k, compression_ratio_threshold, condition_on_prev_tokens, prompt_ids, prompt_condition_type,
                is_multilingual, attention_mask, generation_config, return_segments, monitor_progress: as in
                transformers. Its logprob_threshold and no_speech_threshold are not to be had.

        Returns:
            int64 [recordings, tokens] as transformers gives them: without the start and end tokens, padded; with
            return_segments a dict with these as 'sequences', and 'segments'.

        Raises:
            BadValue: for an argument that it has not got, or features of another shape.
        """
        refuse_unknown(type(self).__name__, given, KNOWN)
        if not isinstance(input_features, torch.Tensor) or input_features.ndim != 3:
            raise BadValue("input_features must be a tensor [recordings, mel bins, frames].")
        windows = _Windows(self)
        return self._seeded(seed, lambda: windows.generate(input_features.cpu().float(), **given))

    def set_task(self, task: str) -> bool:
        """Make 'translate' or 'transcribe' what `generate` does by default; False if the model knows one language."""
        able = getattr(self.generation_config, "is_multilingual", False) and hasattr(
            self.generation_config, "task_to_id"
        )
        if able:
            self.generation_config.task = task
        return bool(able)

    @staticmethod
    def lacks(model: Any) -> list[str]:
        if hasattr(model.generation_config, "no_timestamps_token_id"):
            return []
        return ["the model's generation_config names no special tokens (no_timestamps_token_id); take a newer one."]

    def left_out(self) -> list[str]:
        return []

    @staticmethod
    def read_tokenizer(folder: Path) -> Any:
        from transformers import WhisperProcessor

        found = [folder / name for name in ("processor_config.json", "preprocessor_config.json")]
        return WhisperProcessor.from_pretrained(folder, **LOCAL) if any(path.is_file() for path in found) else None

    @staticmethod
    def names(generation_config: Any) -> dict[int, str]:
        config, named = generation_config, {}
        for token, word in (
            (config.eos_token_id, "<|endoftext|>"),
            (config.decoder_start_token_id, "<|startoftranscript|>"),
            (getattr(config, "no_timestamps_token_id", None), "<|notimestamps|>"),
            (getattr(config, "prev_sot_token_id", None), "<|startofprev|>"),
        ):
            if token is not None:
                named[token] = word
        if hasattr(config, "no_timestamps_token_id"):
            named[config.no_timestamps_token_id - 1] = "<|nospeech|>"
        named |= {token: f"<|{word}|>" for word, token in getattr(config, "task_to_id", {}).items()}
        named |= {token: word for word, token in getattr(config, "lang_to_id", {}).items()}
        if getattr(config, "is_multilingual", False):
            named[config.eos_token_id - 1] = ""  # how CTranslate2 knows that there are several languages
        return named

    def lengths(self, name: str) -> list[int]:
        """A window of sound has one length; what was said before fills half of the decoder's places at most."""
        return [2, self.config.max_target_positions // 2]

    def difference(self, model: Any, seed: int, tokens: int) -> tuple[Any, Any]:
        frames = 2 * self.config.max_source_positions
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(1, self.config.num_mel_bins, frames, generator=generator)
        config = self.generation_config
        said = torch.randint(0, config.eos_token_id, (tokens - 2,), generator=generator).tolist()
        prompt = [*said, config.decoder_start_token_id, config.no_timestamps_token_id]
        with torch.no_grad():
            given = torch.tensor([prompt], device=model.device)
            exact = model(features.to(model.device, model.dtype), decoder_input_ids=given).logits[0, -1]
        (made,) = self.engine.generate(
            storage_view(features),
            [prompt],
            beam_size=1,
            max_length=len(prompt),
            suppress_blank=False,
            suppress_tokens=[],
            return_logits_vocab=True,
        )
        first = torch.from_numpy(np.array(made.logits[0][0].to_device(engine().Device.cpu)))
        return exact.float().cpu().log_softmax(-1), first.float().flatten().log_softmax(-1)


class _Engine(GenerationMixin):
    """Decodes one window, in the place of transformers' own loop."""

    def generate(
        self,
        features: torch.Tensor,
        generation_config: Any,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: Any = None,
        **_: Any,
    ) -> torch.Tensor:
        """The given tokens, what was added, the end token and padding; int64 [recordings, tokens]."""
        config, given = generation_config, decoder_input_ids.shape[1]
        kept = torch.ones_like(decoder_input_ids) if decoder_attention_mask is None else decoder_attention_mask
        prompts = [row[keep.bool()].tolist() for row, keep in zip(decoder_input_ids, kept, strict=True)]
        most = config.max_new_tokens or config.max_length - given
        added: dict[int, list[int]] = {}
        for start in {prompt.index(config.decoder_start_token_id) for prompt in prompts}:
            rows = [n for n, p in enumerate(prompts) if p.index(config.decoder_start_token_id) == start]
            results = self.runtime.engine.generate(
                storage_view(features[rows]),
                [prompts[n] for n in rows],
                **_options(config, most, len(prompts[rows[0]])),
            )
            for n, result in zip(rows, results, strict=True):
                tokens = result.sequences_ids[0][:most]
                added[n] = tokens if len(tokens) == most else [*tokens, config.eos_token_id]
        new = padded([added[n] for n in range(len(prompts))], config.pad_token_id)
        return torch.cat([decoder_input_ids, new], dim=1)


class _Windows(WhisperGenerationMixin, _Engine):
    """Transformers' way through a recording, around an engine's way through a window."""

    def __init__(self, runtime: WhisperGenerator) -> None:
        self.runtime = runtime
        self.config, self.generation_config = runtime.config, runtime.generation_config
        self.device, self.dtype = torch.device("cpu"), torch.float32
        strides = (SimpleNamespace(stride=(1,)), SimpleNamespace(stride=(2,)))
        self.model = SimpleNamespace(encoder=SimpleNamespace(conv1=strides[0], conv2=strides[1]), config=self.config)

    def detect_language(
        self,
        input_features: Any = None,
        encoder_outputs: Any = None,
        generation_config: Any = None,
        num_segment_frames: int = 3000,
    ) -> torch.Tensor:
        """The token of each recording's likeliest language."""
        found = self.runtime.engine.detect_language(storage_view(input_features[..., :num_segment_frames]))
        tokens = (generation_config or self.generation_config).lang_to_id
        return torch.tensor([tokens[languages[0][0]] for languages in found])


def storage_view(features: torch.Tensor) -> Any:
    """Features as CTranslate2 takes them."""
    return engine().StorageView.from_array(np.ascontiguousarray(features.float().numpy()))


def _options(config: Any, most: int, prompt: int) -> dict[str, Any]:
    """CTranslate2's options for a generation configuration; it halves the length it is told, so that is doubled."""
    options: dict[str, Any] = {
        "beam_size": config.num_beams or 1,
        "max_length": max(2 * most, most + prompt - 1),
        "max_initial_timestamp_index": getattr(config, "max_initial_timestamp_index", None) or MOST,
    }
    for name in ("length_penalty", "repetition_penalty", "no_repeat_ngram_size"):
        if getattr(config, name) is not None:
            options[name] = getattr(config, name)
    if config.do_sample:
        options |= {"sampling_temperature": config.temperature, "sampling_topk": config.top_k or 0}
    return options
