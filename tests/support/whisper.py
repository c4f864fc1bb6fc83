"""Small Whispers for tests: one of random weights with its processor, and one that hears words made of tones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.engines import Output
from gearshift.runtimes.speech.tokens import TICK, Tokens
from gearshift.runtimes.speech.vad import by_energy
from gearshift.runtimes.transcriber import Transcriber

from .tiny import randomize

WINDOW = 2.0  # seconds of sound that the small Whisper takes
LANGUAGES = ("en", "ja")
MOST = 32  # tokens that its decoder takes
TONE = 0.3  # seconds of a word made of a tone


def tiny_whisper(languages: Sequence[str] = ()) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A Whisper of random weights with a window of two seconds, tokens for bytes, and its processor."""
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    names = [*sorted(ByteLevel.alphabet()), *special, "<|notimestamps|>"]
    place = {name: n for n, name in enumerate(names)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(_config(len(names) + round(WINDOW / TICK) + 1, place))
        randomize(model, 0)
        model.model.decoder.layer_norm.weight.data *= 4.0  # sure of what it says, so that it says it once
        model.model.decoder.embed_positions.weight.data *= 8.0  # and says various things
    chosen = {
        "decoder_start_token_id": place["<|startoftranscript|>"],
        "eos_token_id": place["<|endoftext|>"],
        "pad_token_id": place["<|endoftext|>"],
        "no_timestamps_token_id": place["<|notimestamps|>"],
        "prev_sot_token_id": place["<|startofprev|>"],
        "alignment_heads": [[0, 0], [1, 1]],
        "max_initial_timestamp_index": 50,
        "suppress_tokens": [place[name] for name in special[1:]],
        "begin_suppress_tokens": [place["<|endoftext|>"]],
        "is_multilingual": bool(languages),
        "max_length": MOST,
        "return_timestamps": False,
        "_from_model_config": False,
    }
    if languages:
        chosen["lang_to_id"] = {f"<|{code}|>": place[f"<|{code}|>"] for code in languages}
        chosen["task_to_id"] = {task: place[f"<|{task}|>"] for task in ("transcribe", "translate")}
    for name, value in chosen.items():
        setattr(model.generation_config, name, value)
    tokenizer = WhisperTokenizer(vocab=place, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": names[256:]})
    return model.eval(), WhisperProcessor(WhisperFeatureExtractor(feature_size=80, chunk_length=int(WINDOW)), tokenizer)


def _config(words: int, place: dict[str, int]) -> WhisperConfig:
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ends = {name: place["<|endoftext|>"] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lengths = {"max_source_positions": round(WINDOW / TICK), "max_target_positions": MOST}
    start = {"decoder_start_token_id": place["<|startoftranscript|>"]}
    return WhisperConfig(vocab_size=words, num_mel_bins=80, **sizes, **heads, **ends, **lengths, **start)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Bursts of noise with pauses between; float32 at 16 kHz."""
    noise = np.random.default_rng(seed).normal(0.0, 0.1, round(seconds * RATE))
    loud = (np.arange(len(noise)) / RATE) % 0.9 < 0.6
    return (noise * np.where(loud, 1.0, 1e-3)).astype(np.float32)


def spoken(
    words: Sequence[int], pauses: Sequence[float], seed: int = 0
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Words as tones, a pause behind each; samples with faint noise, and when each word begins and ends."""
    parts, times, at = [np.zeros(RATE // 2)], [], 0.5
    for word, pause in zip(words, pauses, strict=True):
        t = np.arange(round(TONE * RATE)) / RATE
        parts += [0.3 * np.sin(2 * np.pi * frequency(word) * t), np.zeros(round(pause * RATE))]
        times.append((at, at + TONE))
        at += TONE + pause
    samples = np.concatenate([*parts, np.zeros(RATE // 2)])
    noise = np.random.default_rng(seed).normal(0.0, 1e-4, len(samples))
    return (samples + noise).astype(np.float32), times


def frequency(word: int) -> int:
    """Hz of a word from 0 to 99; neighbors are apart by more than what 20 ms can tell."""
    return 500 + 70 * word


class ToneEngine:
    """Hears words made of tones, as `Engine` asks, with Whisper's habits.

    Args:
        window: seconds.
        leaves: whether it leaves a last sentence that comes near the end of the window to the next one.
        drops: whether it passes over a sentence at the end without a word.
    """

    def __init__(self, window: float = 30.0, leaves: bool = False, drops: bool = False) -> None:
        self.leaves, self.drops, self.batches = leaves, drops, []
        self.tokens = Tokens(
            start=101,
            end=100,
            no_speech=102,
            first_time=104,
            languages={},
            tasks={},
            banned=(),
            banned_first=(),
            most=224,
            window=window,
            heads=((0, 0),),
        )

    def encode(self, pieces):
        assert all(len(piece) <= self.tokens.window * RATE for piece in pieces)
        self.batches.append(len(pieces))
        return list(pieces)

    def pick(self, encoded, rows):
        return [encoded[row] for row in rows]

    def languages(self, encoded):
        return [None] * len(encoded)

    def decode(self, encoded, prompts, temperature, seeds):
        return [Output(tuple(self._said(piece)), -0.1, 0.0) for piece in encoded]

    def align(self, encoded, prompts, texts, lengths):
        found = []
        for piece, text in zip(encoded, texts, strict=True):
            times = [(start, end) for _, start, end in _runs(piece)][: len(text)]
            found.append(np.array([start for start, _ in times] + [times[-1][1]]))
        return found

    def _said(self, piece):
        sentences = []
        for word, start, end in _runs(piece):
            if sentences and start - sentences[-1][-1][2] < 0.2:
                sentences[-1].append((word, start, end))
            else:
                sentences.append([(word, start, end)])
        tail = len(sentences) > 1 and sentences[-1][-1][2] > self.tokens.window * 0.8
        if tail and (self.leaves or self.drops):
            sentences.pop()
        tokens = []
        for sentence in sentences:
            tokens += [self._time(sentence[0][1]), *(w for w, _, _ in sentence), self._time(sentence[-1][2])]
        return [*tokens, tokens[-1]] if tail and self.leaves else tokens

    def _time(self, seconds):
        return self.tokens.first_time + round(seconds / TICK)


def _runs(piece: np.ndarray) -> list[tuple[int, float, float]]:
    """(word, start, end) of each tone; one that is cut short is taken for another word, as half a word would be."""
    hop = RATE // 100
    frames = np.lib.stride_tricks.sliding_window_view(piece, 2 * hop)[::hop]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(2 * hop), n=RATE // 10))
    loud = np.square(frames).mean(axis=1) > 1e-3
    heard = np.where(loud, np.rint((10 * spectra.argmax(axis=1) - 500) / 70), -1).astype(int)
    edges = np.flatnonzero(np.diff(heard, prepend=-2, append=-2))
    found = []
    for first, last in pairwise(edges):
        length = (last - first) * 0.01
        if heard[first] >= 0 and length >= 0.05:
            word = heard[first] if length > 0.8 * TONE else 99 - heard[first]
            found.append((int(word), first * 0.01 + 0.005, last * 0.01 + 0.005))
    return found


class ToneTranscriber(Transcriber):
    """A transcriber around `ToneEngine`; word 7 is written ' w7'."""

    def __init__(self, **habits: object) -> None:
        self.engine, self.batch_size, self.seed, self.components = ToneEngine(**habits), 1, 0, {}
        write = lambda tokens, **_: "".join(f" w{token}" for token in tokens)  # noqa: E731
        self.processor = SimpleNamespace(tokenizer=SimpleNamespace(decode=write))

    def find(self, samples):
        return by_energy(samples)


TOKENS = ToneEngine().tokens
TIME = TOKENS.first_time


def say(tokens):
    return "".join(f" w{token}" for token in tokens)
