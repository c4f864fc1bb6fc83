"""Sound in any form, where someone speaks in it, and pieces cut at pauses."""

import random
import struct
import wave

import numpy as np
import pytest
import torch
from support.each import each
from support.whisper import spoken

from gearshift.core.errors import BadValue
from gearshift.runtimes.speech.audio import RATE, as_samples, read_audio, resample
from gearshift.runtimes.speech.pieces import Piece, next_piece, sections
from gearshift.runtimes.speech.vad import by_energy, by_silero


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


@each("rate", [8000, 11025, 22050, 44100, 48000, 44099])
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
        np.rint(plain * (2.0**31 - 1)).astype(np.int32),
        np.stack([plain, plain], axis=1),
        np.stack([whole] * 6, axis=1),
        torch.from_numpy(np.stack([plain] * 2, axis=1)),
        whole[:, None],
        plain[None],
        {"array": np.stack([plain, plain], axis=1), "sampling_rate": RATE},
    ):
        assert np.allclose(as_samples(form), plain, atol=1e-4)


def test_the_channels_of_a_short_wav_file_are_known(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([0.5]), RATE, 2, channels=2)
    assert np.allclose(read_audio(tmp_path / "a.wav"), [0.5], atol=1e-4)


def test_no_samples_are_no_sound():
    for shape in ((0,), (2, 0), (0, 2)):
        assert as_samples(np.zeros(shape, np.float32)).shape == (0,)


UNSOUND = [np.zeros(()), np.zeros((1, 1, 9)), np.zeros((80, 3000)), np.arange(9), 3e4 * sine(RATE), sine(RATE) > 0]


@each(
    "bad",
    [
        *UNSOUND,
        7,
        "no such file.wav",
        {"array": sine(RATE)},
        {"sampling_rate": 8000},
        np.array(["a"]),
        np.full(9, np.nan),
    ],
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


@each("seed", range(5))
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


def test_what_is_searched_in_parts_is_what_is_searched_whole(monkeypatch):
    """A network that hears whatever is loud: speech that goes on across an edge stays one span."""
    vad = pytest.importorskip("faster_whisper.vad")

    def loud(samples, options):
        return [{"start": start, "end": end} for start, end in by_energy(samples)]

    monkeypatch.setattr(vad, "get_speech_timestamps", loud)
    samples = np.zeros(200 * RATE, np.float32)
    for start, end in ((1, 40), (80, 120), (121, 130)):
        samples[start * RATE : end * RATE] = np.sin(np.arange((end - start) * RATE) / 5)
    whole, parts = by_silero(samples), by_silero(samples, 2)
    assert len(whole) == len(parts) == 3
    assert np.abs(np.array(whole) - np.array(parts)).max() <= 0.03 * RATE
    assert by_silero(samples[:0], 2) == []
