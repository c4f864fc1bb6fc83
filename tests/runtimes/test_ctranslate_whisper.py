"""Whisper by CTranslate2: transformers' own tokens, languages, tasks, times and long recordings."""

import os
from pathlib import Path

import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue

pytest.importorskip("ctranslate2")
SPECIAL = {"decoder_start_token_id": 100, "lang_to_id": {"<|en|>": 101, "<|de|>": 102}, "is_multilingual": True}
SPECIAL |= {
    "task_to_id": {"translate": 103, "transcribe": 104},
    "prev_sot_token_id": 105,
    "no_timestamps_token_id": 107,
}


def whisper():
    """The tiny Whisper, its vocabulary in the order that real ones have: text, end, start, languages, tasks, times."""
    plain = build("whisper").pipe
    for name, value in {**SPECIAL, "eos_token_id": 99, "pad_token_id": 99, "bos_token_id": 99}.items():
        setattr(plain.generation_config, name, value)
    plain.generation_config.suppress_tokens, plain.generation_config.begin_suppress_tokens = [7, 100, 105], [99]
    return plain


SOUND = {
    "as it is": {},
    "a language": {"language": "de", "task": "transcribe"},
    "translated": {"language": ["en", "de"], "task": "translate"},
    "times": {"return_timestamps": True},
    "beams": {"num_beams": 2},
    "short": {"max_new_tokens": 3},
    "after a prompt": {"prompt_ids": torch.tensor([105, 20, 21])},
}


@each("given", SOUND.values())
def test_whisper_writes_what_it_does_in_transformers(given):
    plain, features = whisper(), torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    made = gs.optimize(whisper(), "c_whisper")
    given = {"max_new_tokens": 20, **given}
    assert torch.equal(made.generate(features, **given), plain.generate(features, **given))


def test_a_long_recording_is_cut_as_in_transformers():
    plain, features = whisper(), torch.randn(1, 16, 170, generator=torch.Generator().manual_seed(1))
    made = gs.optimize(whisper(), "c_whisper")
    for given in ({}, {"condition_on_prev_tokens": True}):
        given = {"return_timestamps": True, "max_new_tokens": 12, **given}
        assert torch.equal(made.generate(features, **given), plain.generate(features, **given))


def test_temperatures_draw():
    made, features = gs.optimize(whisper(), "c_whisper"), torch.randn(1, 16, 64)
    drawn = [made.generate(features, temperature=1.0, max_new_tokens=12, seed=seed).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_model_without_special_tokens_is_refused():
    with pytest.raises(BadRecipe, match="names no special tokens"):
        gs.optimize(build("whisper").pipe, "c_whisper")


def test_whisper_in_the_other_compilers(tmp_path):
    features = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))
    made = gs.optimize(whisper(), "c_translate(weight_bits=8)")
    gs.save(made, tmp_path / "saved")
    again = gs.load(tmp_path / "saved")
    expected = made.generate(features, task="translate", max_new_tokens=9)
    for runtime in (made, again):
        assert torch.equal(runtime.generate(features, max_new_tokens=9), expected)
    with pytest.raises(BadValue, match="no argument 'logprob_threshold'"):
        again.generate(features, logprob_threshold=-1.0)
    assert type(gs.optimize(whisper(), "c_generate")) is type(made)


@pytest.mark.skipif("GEARSHIFT_WHISPER" not in os.environ, reason="GEARSHIFT_WHISPER names no folder with Whisper")
def test_real_whisper():
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    folder = Path(os.environ["GEARSHIFT_WHISPER"])
    plain = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    time = torch.arange(16000 * 4) / 16000
    sound = (torch.sin(2 * torch.pi * 220 * time * (1 + 0.3 * torch.sin(6 * time))) * (torch.sin(9 * time) > 0)).numpy()
    features = processor(sound, sampling_rate=16000, return_tensors="pt").input_features
    made = gs.optimize(plain, "c_whisper", processor=processor)
    for given in ({}, {"return_timestamps": True}):
        assert torch.equal(made.generate(features, **given), plain.generate(features, **given))
    assert made.processor is processor
