"""Speech to text: sound in any form, pieces cut at pauses, outputs read, borders joined, nothing lost or said twice."""

import itertools
import random
import struct
import wave

import numpy as np
import pytest
import torch
from support.whisper import TONE, ToneEngine, ToneTranscriber, sound, spoken, tiny_whisper
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from gearshift.core.errors import BadValue
from gearshift.runtimes.speech.alignment import moments, warp
from gearshift.runtimes.speech.audio import RATE, as_samples, read_audio, resample
from gearshift.runtimes.speech.engines import Output
from gearshift.runtimes.speech.hearing import hear
from gearshift.runtimes.speech.pieces import Piece, next_piece, sections
from gearshift.runtimes.speech.rules import Rules
from gearshift.runtimes.speech.stitch import join
from gearshift.runtimes.speech.tokens import Tokens
from gearshift.runtimes.speech.torch_engine import TorchEngine
from gearshift.runtimes.speech.voice import by_energy
from gearshift.runtimes.speech.words import Segment, Word, read


def sine(rate, seconds=0.5, hertz=440.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def sqnr(exact, given):
    return 10 * np.log10((exact**2).mean() / ((exact - given) ** 2).mean())


def write_wav(path, samples, rate, width, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = np.rint(samples * (2 ** (8 * width - 1) - 1)).astype(np.int64)
        whole = whole + 128 if width == 1 else whole
        raw = b"".join(struct.pack("<q", n)[:width] * channels for n in whole.tolist())
        file.writeframes(raw)


# sound


@pytest.mark.parametrize(("width", "floor"), [(1, 40), (2, 60), (3, 60), (4, 60)])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_of_every_width_are_read_without_any_package(tmp_path, width, floor, channels):
    write_wav(tmp_path / "a.wav", 0.9 * sine(RATE), RATE, width, channels)
    assert sqnr(0.9 * sine(RATE), read_audio(tmp_path / "a.wav")) > floor


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44099])
def test_resampling_keeps_a_tone(rate):
    got, wanted = resample(sine(rate), rate), sine(RATE)
    assert abs(len(got) - len(wanted)) <= 1
    inner = slice(200, min(len(got), len(wanted)) - 200)
    assert sqnr(wanted[inner], got[inner]) > 50


def test_resampling_takes_away_what_would_come_back_as_another_tone():
    assert np.abs(resample(sine(48000, hertz=11000.0), 48000)[200:-200]).max() < 0.01


def test_arrays_tensors_and_dicts_are_the_same_sound():
    plain = 0.5 * sine(RATE)
    whole = np.rint(plain * 32767).astype(np.int16)
    stereo = {"array": np.stack([plain, plain]), "sampling_rate": RATE}
    for form in (
        torch.from_numpy(plain),
        stereo,
        {"raw": plain, "sampling_rate": RATE},
        whole,
        plain.astype(np.float64),
    ):
        assert np.allclose(as_samples(form), plain, atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [7, "no such file.wav", {"array": sine(RATE)}, {"sampling_rate": 8000}, np.array(["a"]), np.full(9, np.nan)],
    ids=repr,
)
def test_bad_sound_is_told_in_a_sentence(bad):
    with pytest.raises(BadValue):
        as_samples(bad)


def test_a_file_that_is_no_sound_is_named(tmp_path):
    (tmp_path / "a.mp3").write_text("no sound")
    pytest.importorskip("av")
    with pytest.raises(BadValue, match=r"a\.mp3' cannot be read"):
        read_audio(tmp_path / "a.mp3")


# pauses


def test_pauses_are_found_in_the_noise_of_a_room():
    samples, times = spoken([10, 30, 50], [0.5, 0.7, 0.0])
    noisy = samples + np.random.default_rng(1).normal(0, 1e-3, len(samples)).astype(np.float32)
    found = np.array(by_energy(noisy)) / RATE
    assert found.shape == (3, 2)
    assert np.abs(found - np.array(times)).max() < 0.04


def test_silence_has_no_speech_and_even_noise_no_pause():
    assert by_energy(np.zeros(RATE, np.float32)) == []
    assert by_energy(np.zeros(0, np.float32)) == []
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    assert by_energy(noise) == [(0, len(noise))]


# pieces


def spans_of(seed, count=60):
    draw, at, found = random.Random(seed), 0, []
    for _ in range(count):
        at += draw.randrange(3300, 40000)
        length = draw.choice([4000, 20000, 90000, 700000])
        found.append((at, at + length))
        at += length
    return found, at + 8000


@pytest.mark.parametrize("seed", range(5))
def test_pieces_fit_the_window_and_together_hold_all_speech(seed):
    spans, total = spans_of(seed)
    most, at, heard = 30 * RATE, 0, np.zeros(total, bool)
    while left := [(max(a, at), b) for a, b in spans if b > at]:
        piece = next_piece(left, at, total, most)
        assert piece.length <= most
        assert piece.end > at
        for a, b in piece.ranges:
            heard[a:b] = True
        if not piece.open:
            assert not any(a < piece.end < b for a, b in spans), "cut in the middle of speech"
        at = piece.end
    assert all(heard[a:b].all() for a, b in spans)


@pytest.mark.parametrize("count", [1, 2, 5, 200])
def test_sections_part_speech_in_order_and_lose_none(count):
    spans, _ = spans_of(3)
    parts = sections(spans, count)
    assert [span for part in parts for span in part] == spans
    assert 1 <= len(parts) <= count
    assert all(parts)


def test_a_time_in_a_piece_is_one_in_the_recording():
    piece = Piece(((RATE, 2 * RATE), (5 * RATE, 6 * RATE)))
    assert [piece.moment(t) for t in (0.0, 0.5, 1.0, 1.5, 9.0)] == [1.0, 1.5, 5.0, 5.5, 6.0]
    assert piece.moment(1.0, closing=True) == 2.0


# outputs

TOKENS = ToneEngine().tokens
TIME = TOKENS.first_time


def say(tokens):
    return "".join(f" w{token}" for token in tokens)


def test_an_output_is_read_as_segments_and_words():
    reading = read([TIME, 1, 2, TIME + 50, TIME + 50, 3, TIME + 100], 2.5, TOKENS, say)
    assert [(s.text, s.start, s.end) for s in reading.segments] == [(" w1 w2", 0.0, 1.0), (" w3", 1.0, 2.0)]
    assert [(w.text, w.start, w.end) for w in reading.segments[0].words] == [(" w1", 0.0, 0.5), (" w2", 0.5, 1.0)]
    assert (reading.reached, reading.unfinished) == (2.0, False)


def test_what_an_output_leaves_out_is_seen():
    assert read([TIME, 1, TIME + 50, TIME + 50], 9.0, TOKENS, say).unfinished
    cut = read([TIME, 1, TIME + 50, TIME + 60, 2], 9.0, TOKENS, say)
    assert (cut.reached, cut.unfinished, cut.segments[-1].end) == (9.0, False, 9.0)
    full = read([*[TIME, 1, TIME + 50] * 70, *[2] * 14], 90.0, TOKENS, say)
    assert (len(full.segments), full.reached, full.unfinished) == (70, 1.0, True)
    assert read([], 9.0, TOKENS, say).segments == ()


def test_words_are_told_apart_by_spaces_and_marks_stay_with_them():
    letters = list(" Oh, (dear) me")
    reading = read([TIME, *range(len(letters)), TIME + 50], 1.0, TOKENS, lambda t: "".join(letters[n] for n in t))
    assert [w.text for w in reading.segments[0].words] == [" Oh,", " (dear)", " me"]
    assert [w.key for w in reading.segments[0].words] == ["oh", "dear", "me"]


def test_characters_of_several_tokens_stay_whole_without_spaces():
    raw = "こん。".encode()
    reading = read(
        [TIME, *range(len(raw)), TIME + 50],
        1.0,
        TOKENS,
        lambda t: bytes(raw[n] for n in t).decode(errors="replace"),
        True,
    )
    assert [w.text for w in reading.segments[0].words] == ["こ", "ん。"]


def test_the_rules_are_those_of_transformers():
    model, _ = tiny_whisper()
    config, tokens = model.generation_config, Tokens.of(model.config, model.generation_config)
    theirs = WhisperTimeStampLogitsProcessor(config, begin_index=1)
    words, rows = model.config.vocab_size, 5
    rules, draw = Rules(tokens, words, rows, torch.device("cpu")), torch.Generator().manual_seed(0)
    said = torch.full((rows, 1), tokens.start)
    for step in range(40):
        logits = 3 * torch.randn(rows, words, generator=draw)
        logits[:, [*tokens.banned, *(tokens.banned_first if step == 0 else ())]] = -torch.inf
        mine = rules(logits)
        wanted = theirs(said, logits).isfinite()
        assert torch.equal(mine.isfinite(), wanted)
        token = torch.multinomial(mine.exp(), 1, generator=draw)
        token[token == tokens.end] = 5  # go on
        token = torch.where(wanted.gather(1, token), token, mine.argmax(-1, keepdim=True))
        rules.take(token[:, 0])
        said = torch.cat([said, token], dim=1)


# borders


def segments(words, start=0.0, length=0.5):
    parts = [Word((), f" {w}", start + n * length, start + (n + 1) * length) for n, w in enumerate(words.split())]
    return [Segment(tuple(parts), parts[0].start, parts[-1].end)]


def text(found):
    return "".join(s.text for s in found).strip()


def test_overlapping_texts_join_where_they_say_the_same():
    left, right = segments("a b c d e f gar"), segments("ish d e f g h", 1.0)
    assert text(join(left, right, 1.0, 3.5)) == "a b c d e f g h"


def test_words_that_come_twice_are_joined_at_their_time():
    left, right = segments("so it goes and so it goes"), segments("so it goes on", 2.0)
    assert text(join(left, right, 2.0, 3.5)) == "so it goes and so it goes on"


def test_without_a_common_word_the_middle_of_the_overlap_decides():
    left, right = segments("a b c d"), segments("x y z", 1.0)
    assert text(join(left, right, 1.0, 2.0)) == "a b c y z"


def test_texts_that_only_touch_are_joined_whole():
    left, right = segments("a b c"), segments("x y z", 1.2)
    assert text(join(left, right, 1.2, 1.2, 0.4)) == "a b c x y z"
    assert text(join(left, segments("b c d", 0.6), 1.2, 1.2, 0.4)) == "a b c d"


def test_a_segment_that_loses_words_keeps_the_times_of_the_others():
    left = segments("a b c d")
    joined = join(left, segments("c d e", 1.0), 1.0, 2.0)
    assert [(s.start, s.end) for s in joined] == [(0.0, 1.5), (1.5, 2.5)]


def test_the_cheapest_path_is_found():
    cost = np.random.default_rng(0).normal(size=(4, 5))
    rows, columns = warp(cost)
    best = min(sum(cost[cell] for cell in path) for path in _paths(4, 5))
    assert np.isclose(cost[rows, columns].sum(), best)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 3, 4)


def _paths(n, m, at=(0, 0)):
    if at == (n - 1, m - 1):
        yield [at]
    for step in ((1, 1), (1, 0), (0, 1)):
        then = (at[0] + step[0], at[1] + step[1])
        if then[0] < n and then[1] < m:
            yield from ([at, *rest] for rest in _paths(n, m, then))


def test_tokens_begin_where_the_attention_moves_to_them():
    borders, frames = [0, 20, 50, 60, 90], 120
    weights = np.full((3, 5, frames), 0.01)
    for row, (start, end) in enumerate(itertools.pairwise([*borders, frames])):
        weights[:, row, start:end] = 1.0
    assert np.abs(moments(weights / weights.sum(-1, keepdims=True)) - borders).max() <= 3


# outputs that are not to be trusted


class Scripted:
    """An engine that answers each temperature from a list."""

    tokens = TOKENS

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def encode(self, pieces):
        return list(pieces)

    def pick(self, encoded, rows):
        return [encoded[row] for row in rows]

    def decode(self, encoded, prompts, temperature, seeds):
        self.asked.append((temperature, len(encoded)))
        return [self.answers[min(len(self.asked), len(self.answers)) - 1]] * len(encoded)


LOOP = Output((TIME, *[7] * 200, TIME + 50), -0.1, 0.0)
UNSURE = Output((TIME, 1, TIME + 50), -1.5, 0.0)
SURE = Output((TIME, 1, 2, TIME + 50), -0.2, 0.0)
SILENCE = Output((TIME, 1, 2, TIME + 50), -1.5, 0.9)


@pytest.mark.parametrize(
    ("answers", "wanted", "asked"),
    [
        ([SURE], SURE, [0.0]),
        ([LOOP, SURE], SURE, [0.0, 0.2]),
        ([UNSURE, LOOP, SURE], SURE, [0.0, 0.2, 0.4]),
        ([LOOP, UNSURE], UNSURE, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_outputs_that_repeat_themselves_or_are_unsure_are_made_again(answers, wanted, asked):
    engine = Scripted(*answers)
    (heard,) = hear(engine, [np.zeros(9)], [[0]], [0], say)
    assert heard.output == wanted.tokens
    assert [temperature for temperature, _ in engine.asked] == asked


def test_what_is_taken_for_silence_is_left_out():
    (heard,) = hear(Scripted(SILENCE), [np.zeros(9)], [[0]], [0], say)
    assert heard.output == ()


# whole recordings, with words made of tones


def story(count, pausing, seed=0):
    draw, words = random.Random(seed), [0]
    while len(words) < count:
        word = draw.randrange(90)
        words += [word] if abs(word - words[-1]) > 3 else []
    pauses = {
        "often": lambda n: 0.4 if n % 3 == 2 else 0.0,
        "never": lambda n: 0.0,
        "sometimes": lambda n: 0.0 if 40 < n < 170 or n % 2 == 0 else draw.choice([0.0, 0.5, 2.5]),
    }
    return words, [pauses[pausing](n) for n in range(count)]


def heard(answer):
    return [int(chunk["text"][2:]) for chunk in answer["chunks"]]


@pytest.mark.parametrize("pausing", ["often", "never", "sometimes"])
@pytest.mark.parametrize("habits", [{}, {"leaves": True}, {"drops": True}], ids=str)
def test_no_word_is_lost_or_said_twice_wherever_pieces_are_cut(pausing, habits):
    words, pauses = story(240, pausing)
    samples, times = spoken(words, pauses)
    for batch in (1, 2):
        model = ToneTranscriber(**habits)
        answer = model(samples, batch_size=batch, return_timestamps="word")
        assert heard(answer) == words
        assert max(model.engine.batches) == (batch if pausing == "often" else 1)
        apart = [abs(c["timestamp"][0] - start) for c, (start, _) in zip(answer["chunks"], times, strict=True)]
        assert max(apart) < 0.05
        assert answer["text"] == say(words)


@pytest.mark.parametrize("pausing", ["often", "never", "sometimes"])
def test_a_stream_says_the_same_as_the_whole(pausing):
    words, pauses = story(240, pausing, seed=1)
    samples, _ = spoken(words, pauses)
    model = ToneTranscriber(leaves=True)
    parts = list(model.stream(iter(np.array_split(samples, 91)), words=True))
    assert heard({"chunks": parts}) == words
    whole = model(samples, return_timestamps="word")["chunks"]
    apart = np.array([p["timestamp"] for p in parts]) - [c["timestamp"] for c in whole]
    assert np.abs(apart).max() < 0.05
    assert model(iter(np.array_split(samples, 7)))["text"] == say(words)


def test_a_stream_is_answered_when_the_speaker_pauses():
    samples, _ = spoken([10, 20, 30], [0.0, 3.0, 0.0])
    fed, answered = 0, []

    def microphone():
        nonlocal fed
        for chunk in np.array_split(samples, 40):
            fed += len(chunk)
            yield chunk

    for chunk in ToneTranscriber().stream(microphone()):
        answered.append((chunk["text"], fed))
    assert [said for said, _ in answered] == [" w10 w20", " w30"]
    assert answered[0][1] < len(samples) - RATE // 2


def test_several_recordings_share_batches_and_answer_as_each_alone():
    stories = [spoken(*story(count, "often", seed))[0] for count, seed in ((30, 2), (200, 3), (3, 4))]
    model = ToneTranscriber()
    together = model(stories, batch_size=4, return_timestamps=True)
    assert max(model.engine.batches) == 4
    assert together == [model(one, batch_size=4, return_timestamps=True) for one in stories]


def test_shorter_pieces_and_progress():
    words, pauses = story(100, "often")
    samples, _ = spoken(words, pauses)
    model, told = ToneTranscriber(), []
    answer = model(
        samples, chunk_length_s=5.0, stride_length_s=1.0, return_timestamps="word", progress=lambda *a: told.append(a)
    )
    assert heard(answer) == words
    assert len(told) == len(model.engine.batches) > 6
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(told))
    assert told[-1][0] == pytest.approx(told[-1][1]) == pytest.approx(100 * TONE, rel=0.1)


def test_silence_has_an_answer_too():
    assert ToneTranscriber()(np.zeros(3 * RATE, np.float32), return_timestamps=True) == {"text": "", "chunks": []}
    assert ToneTranscriber()(iter([])) == {"text": ""}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"return_timestamps": "char"}, "return_timestamps"),
        ({"chunk_length_s": 40.0}, "chunk_length_s"),
        ({"stride_length_s": 20.0}, "stride_length_s"),
        ({"task": "sing"}, "task must be one of"),
        ({"task": "translate"}, "knows one language"),
        ({"language": "fr"}, "no language 'fr'"),
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_told_in_a_sentence(wrong, message):
    with pytest.raises(BadValue, match=message):
        ToneTranscriber()(np.zeros(RATE, np.float32), **wrong)
    with pytest.raises(BadValue, match="list of numbers"):
        ToneTranscriber()([0.0, 0.1])


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
