"""A real Whisper network of random weights: its tokens are those of transformers, alone or in a batch."""

import numpy as np
import pytest
import torch
from support.whisper import sound, tiny_whisper
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.torch_engine import TorchEngine

# a real network, of random weights


@pytest.fixture(scope="module", params=[(), ("en", "ja")], ids=["english", "multilingual"])
def engine(request):
    model, processor = tiny_whisper(request.param)
    return TorchEngine(model, processor.feature_extractor), processor


def prompts_of(engine, count):
    return [engine.tokens.prompt("ja" if engine.tokens.languages else None, "transcribe")] * count


def test_tokens_are_those_of_transformers_steps_and_processors(engine):
    engine, processor = engine
    tokens, pieces = engine.tokens, [sound(2.0, seed) for seed in range(3)]
    outputs = engine.decode(engine.encode(pieces), prompts_of(engine, 3), 0.0, [0, 0, 0])
    given = processor.feature_extractor(pieces, sampling_rate=RATE, return_tensors="pt")["input_features"]
    said = torch.tensor(prompts_of(engine, 3))
    rules = WhisperTimeStampLogitsProcessor(engine.model.generation_config, begin_index=said.shape[1])
    for step in range(12):
        with torch.no_grad():
            logits = engine.model(given, decoder_input_ids=said).logits[:, -1]
        logits[:, [*tokens.banned, *(tokens.banned_first if step == 0 else ())]] = -torch.inf
        said = torch.cat([said, rules(said, logits).argmax(-1, keepdim=True)], dim=1)
    for output, row in zip(outputs, said[:, len(prompts_of(engine, 1)[0]) :].tolist(), strict=True):
        whole = [*output.tokens, *[tokens.end] * 12]
        ended = row.index(tokens.end) if tokens.end in row else 12
        assert whole[:ended] == row[:ended]
        assert -20 < output.confidence < 0
        assert 0 <= output.no_speech <= 1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_batch_says_what_each_piece_says_alone(engine, temperature):
    engine, _ = engine
    pieces, seeds = [sound(1.0 + n / 3, n) for n in range(3)], [3, 4, 5]
    together = engine.decode(engine.encode(pieces), prompts_of(engine, 3), temperature, seeds)
    for piece, seed, output in zip(pieces, seeds, together, strict=True):
        (alone,) = engine.decode(engine.encode([piece]), prompts_of(engine, 1), temperature, [seed])
        assert alone.tokens == output.tokens
        assert alone.confidence == pytest.approx(output.confidence, abs=1e-4)


def test_words_are_aligned_in_order_and_inside_of_the_piece(engine):
    engine, _ = engine
    pieces, texts = [sound(2.0), sound(1.2, 1)], [[5, 6, 7, 8, 9], [9, 8]]
    found = engine.align(engine.encode(pieces), prompts_of(engine, 2), texts, [len(p) for p in pieces])
    for times, text_, piece in zip(found, texts, pieces, strict=True):
        assert len(times) == len(text_) + 1
        assert (np.diff(times) >= 0).all()
        assert 0 <= times[0] <= times[-1] <= len(piece) / RATE + 0.02


def test_languages_are_heard_only_by_models_that_know_several(engine):
    engine, _ = engine
    heard = engine.languages(engine.encode([sound(1.0), sound(1.0, 1)]))
    assert set(heard) <= ({"en", "ja"} if engine.tokens.languages else {None})
