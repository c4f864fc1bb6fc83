"""ifw and whisper_s2t: a Whisper becomes a transcriber, alone, behind others, and again from a saved folder."""

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.tiny import build
from support.whisper import LANGUAGES, sound, tiny_whisper
from transformers import WhisperForConditionalGeneration

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue, CannotRestore, GearshiftWarning
from gearshift.runtimes.speech.audio import RATE

RECIPES = ["ifw", "ifw(weight_bits=32)", "whisper_s2t", "whisper_s2t(int8=True)"]
BEHIND = ["half, ifw", "torch_dynamic, ifw", "half, whisper_s2t", "c_whisper, whisper_s2t"]
BEHIND += ["c_whisper(weight_bits=8), whisper_s2t", "c_generate, whisper_s2t(int8=True)"]
SOUND = sound(3.0)
EXAMPLE = {"input_features": torch.zeros(1, 80, 200), "decoder_input_ids": torch.zeros(1, 4, dtype=torch.long)}


def optimized(recipe, languages=(), **settings):
    if "whisper_s2t" in recipe:
        pytest.importorskip("faster_whisper")
    model, processor = tiny_whisper(languages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        return gs.optimize(model, recipe, processor=processor, data=[EXAMPLE], **settings)


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """Bursts of noise are no speech to the Silero network; here everything loud is."""
    from gearshift.runtimes import whisper_ctranslate
    from gearshift.runtimes.speech.vad import by_energy

    monkeypatch.setattr(whisper_ctranslate, "by_silero", lambda samples, threads: by_energy(samples))


def test_pieces_share_the_threads_and_torch_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model = optimized("whisper_s2t", batch_size=2)
        assert model.runtime.engine.num_workers == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("recipe", RECIPES + BEHIND)
def test_the_answer_has_the_shape_of_transformers_pipeline(recipe):
    model = optimized(recipe)
    for wanted in (True, "word"):
        answer = model(SOUND, return_timestamps=wanted)
        assert set(answer) == {"text", "chunks"}
        assert answer["text"] == "".join(chunk["text"] for chunk in answer["chunks"]) != ""
        times = [chunk["timestamp"] for chunk in answer["chunks"]]
        assert all(0 <= start <= end <= 3 for start, end in times)
        assert times == sorted(times)
    assert set(model(SOUND)) == {"text"}


@pytest.mark.parametrize("recipe", RECIPES + BEHIND)
def test_a_saved_transcriber_answers_the_same(recipe, tmp_path):
    model = optimized(recipe, batch_size=2, seed=3)
    wanted = model(SOUND, return_timestamps="word")
    gs.save(model, tmp_path / "a")
    assert model(SOUND, return_timestamps="word") == wanted, "saving changed the model"
    again = gs.load(tmp_path / "a")
    assert type(again) is type(model)
    assert (again.batch_size, again.seed) == (2, 3)
    assert again(SOUND, return_timestamps="word") == wanted
    mine, theirs = ([(a["name"], a["params"]) for a in gs.status(m).applied] for m in (model, again))
    assert mine == theirs
    gs.save(again, tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    assert gs.load(tmp_path / "b")(SOUND, return_timestamps="word") == wanted


@pytest.mark.parametrize(("bits", "dtype"), [(16, torch.float16), (32, torch.float32)])
def test_ifw_keeps_weights_of_the_width_that_was_asked_for(bits, dtype, tmp_path):
    plain, _ = tiny_whisper()
    model = optimized(f"ifw(weight_bits={bits})")
    for mine, theirs in zip(model.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.float(), theirs.to(dtype).float())
    gs.save(model, tmp_path / "a")
    (file,) = (tmp_path / "a" / "model").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}


def test_int8_is_smaller_and_says_nearly_the_same_of_each_token():
    wide, narrow = optimized("whisper_s2t"), optimized("whisper_s2t(int8=True)")
    assert narrow.size_bytes() < 0.5 * wide.size_bytes()
    late = optimized("c_whisper, whisper_s2t(int8=True)")
    assert late.size_bytes() < wide.size_bytes()
    assert gs.status(narrow).applied[0]["figures"]["log_probability_sqnr"] > 10


def test_both_engines_say_the_same_at_full_precision():
    torch_one, other = optimized("ifw(weight_bits=32)"), optimized("whisper_s2t")
    for bits in torch_one.model.parameters():  # the other one's weights went through float16
        bits.data = bits.data.half().float()
    pieces = [SOUND[: 2 * RATE], SOUND[RATE:]]
    prompts = [torch_one.engine.tokens.prompt(None, "transcribe")] * 2
    mine, theirs = (m.engine.decode(m.engine.encode(pieces), prompts, 0.0, [0, 0]) for m in (torch_one, other))
    for a, b in zip(mine, theirs, strict=True):
        assert a.tokens == b.tokens
        assert a.confidence == pytest.approx(b.confidence, abs=0.05)
        assert a.no_speech == pytest.approx(b.no_speech, abs=1e-3)
    texts = [[5, 6, 7], [8, 9]]
    moments = (m.engine.align(m.engine.encode(pieces), prompts, texts, [2 * RATE] * 2) for m in (torch_one, other))
    for a, b in zip(*moments, strict=True):
        assert len(a) == len(b)


@pytest.mark.parametrize("recipe", ["ifw", "whisper_s2t"])
def test_language_and_task_reach_the_decoder(recipe):
    model = optimized(recipe, LANGUAGES)
    seen, decode = [], model.engine.decode
    model.engine.decode = lambda e, prompts, *rest: seen.append(prompts[0]) or decode(e, prompts, *rest)
    tokens = model.engine.tokens
    model(SOUND, language="ja", task="translate")
    assert seen[0] == [tokens.start, tokens.languages["ja"], tokens.tasks["translate"]]
    seen.clear()
    model(SOUND)
    assert seen[0][1] in tokens.languages.values()
    with pytest.raises(BadValue, match="no language 'fr' in this model; it knows en, ja"):
        model(SOUND, language="fr")


def test_the_batch_size_is_the_recipes_unless_a_call_says_otherwise():
    model = optimized("ifw", batch_size=3)
    sizes, encode = [], model.engine.encode
    model.engine.encode = lambda pieces: sizes.append(len(pieces)) or encode(pieces)
    model([SOUND[:RATE]] * 5)
    model([SOUND[:RATE]] * 5, batch_size=4)
    assert sizes[0] == 3
    assert max(sizes) == 4


def test_a_model_without_its_processor_is_refused_in_a_sentence():
    model, _ = tiny_whisper()
    with pytest.raises(BadRecipe, match="ifw needs the model's processor"):
        gs.optimize(model, "ifw")
    with pytest.raises(BadRecipe, match="no 'no_timestamps_token_id'"):
        gs.optimize(build("whisper").pipe, "ifw", processor=tiny_whisper()[1])
    with pytest.raises(BadRecipe, match="ifw works on a speech model"):
        gs.optimize(build("llama").pipe, "ifw")


def test_the_processor_is_found_beside_the_weights(tmp_path):
    model, processor = tiny_whisper()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert gs.optimize(again, "ifw").processor.feature_extractor.feature_size == 80


def test_quantized_weights_cannot_be_converted():
    model, processor = tiny_whisper()
    with pytest.raises(BadRecipe, match="whisper_s2t converts floating-point weights, which torch_dynamic removes"):
        gs.optimize(model, "torch_dynamic, whisper_s2t", processor=processor)


def test_what_is_replaced_cannot_be_restored():
    with pytest.raises(CannotRestore, match="ifw replaced the model by another object"):
        gs.restore(optimized("ifw"))


# real weights, where there are some

FOLDER = os.environ.get("GEARSHIFT_WHISPER")
REAL = pytest.mark.skipif(
    not FOLDER or not shutil.which("espeak-ng"),
    reason="needs GEARSHIFT_WHISPER, a folder with an English Whisper in transformers' format, and espeak-ng",
)


@pytest.fixture(scope="module")
def recording():
    """Forty seconds of known text, and the word error rate of another one."""
    place = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, place)
    try:
        import speech_data
    finally:
        sys.path.remove(place)
    made = speech_data.speech(40.0)
    return made, lambda text: speech_data.word_error_rate(made.text, text)


@REAL
@pytest.mark.parametrize("recipe", ["ifw", "whisper_s2t", "whisper_s2t(int8=True)"])
def test_a_real_model_hears_what_was_said(recipe, recording, monkeypatch):
    monkeypatch.undo()  # let the Silero network listen
    made, error_rate = recording
    model = gs.optimize(WhisperForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32), recipe)
    answer = model(made.samples, return_timestamps="word")
    assert error_rate(answer["text"]) < 0.15
    assert 0.9 < len(answer["text"]) / len(made.text) < 1.1
    assert model(made.samples)["text"] == answer["text"]
    lengths = [end - start for start, end in (chunk["timestamp"] for chunk in answer["chunks"])]
    assert max(lengths) < 1.5
    assert np.mean(lengths) > 0.1


def tones():
    """Eight seconds of what nobody says."""
    t, draw = np.arange(8 * RATE) / RATE, np.random.default_rng(0)
    return {
        "tone": 0.3 * np.sin(2 * np.pi * 440 * t),
        "high tone": 0.3 * np.sin(2 * np.pi * 3000 * t),
        "beeps": 0.3 * np.sin(2 * np.pi * 800 * t) * (t % 1 < 0.3),
        "noise": draw.normal(0, 0.1, len(t)),
        "faint noise": draw.normal(0, 1e-5, len(t)),
        "silence": np.zeros(len(t)),
    }


@pytest.mark.skipif(not FOLDER, reason="needs GEARSHIFT_WHISPER, a folder with an English Whisper")
def test_a_real_model_hears_no_words_in_tones_and_noise():
    model = gs.optimize(WhisperForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32), "ifw")
    for name, sound_ in tones().items():
        assert model(sound_.astype(np.float32))["text"] == "", name
        assert model(np.stack([sound_] * 2, axis=1).astype(np.float32))["text"] == "", name
