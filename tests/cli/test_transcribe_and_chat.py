"""gearshift transcribe and gearshift chat: what is written, and what is said to mistakes."""

import io
import json
import sys
import wave

import numpy as np
import pytest
from support.whisper import tiny_whisper

import gearshift as gs
from gearshift import zoo
from gearshift.cli import main
from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.subtitles import WRITERS, to_srt, to_vtt
from gearshift.zoo.language import folder, load_language

ANSWER = {
    "text": " one two --> three",
    "chunks": [
        {"text": " one two", "timestamp": (0.0, 1.5)},
        {"text": " --> three", "timestamp": (3599.9996, 3601.25)},
        {"text": " ", "timestamp": (3602.0, 3603.0)},
    ],
}


def test_subtitles_have_the_times_and_punctuation_of_their_formats():
    assert to_srt(ANSWER) == (
        "1\n00:00:00,000 --> 00:00:01,500\none two\n\n2\n01:00:00,000 --> 01:00:01,250\n-> three\n"
    )
    assert to_vtt(ANSWER).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none two\n\n01:00:00.000")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A folder of transformers' layout with a tiny Whisper, and a recording."""
    place = tmp_path_factory.mktemp("whisper")
    model, processor = tiny_whisper()
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    sound = np.sin(np.arange(3 * RATE) * 0.2) * (np.arange(3 * RATE) % RATE < RATE // 2)
    with wave.open(str(place / "talk.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 20_000).astype(np.int16).tobytes())
    return place


@pytest.mark.parametrize("form", WRITERS)
def test_a_recording_is_transcribed_beside_itself(whisper, form, capsys, tmp_path):
    words = ["transcribe", str(whisper / "model"), str(whisper / "talk.wav"), "--format", form, "--out", str(tmp_path)]
    assert main(words) == 0
    (out,) = tmp_path.iterdir()
    assert capsys.readouterr().out.strip() == str(out) and out.suffix == f".{form}"
    made = gs.optimize(tiny_whisper()[0].eval(), "ifw", processor=tiny_whisper()[1])(
        str(whisper / "talk.wav"), return_timestamps=form != "txt"
    )
    if form == "json":
        assert json.loads(out.read_text())["text"] == made["text"]
    else:
        assert out.read_text() == WRITERS[form](made)


def test_a_saved_transcriber_is_taken_as_it_is(whisper, tmp_path, capsys):
    assert main(["optimize", str(whisper / "model"), "--with", "ifw", "--out", str(tmp_path / "fast")]) == 0
    words = ["transcribe", str(tmp_path / "fast"), str(whisper / "talk.wav"), "--out", str(tmp_path / "texts")]
    assert main([*words, "--words", "--format", "json"]) == 0
    assert {"text", "chunks"} == json.loads((tmp_path / "texts" / "talk.json").read_text()).keys()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["transcribe", "m", "talk.wav", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["transcribe", "m", "no.wav"], "no.wav"),
        (["transcribe", "m", "a/talk.wav", "b/talk.wav", "--out", "o"], "into one file"),
        (["transcribe", "m", "talk.wav", "--out", "/proc/x"], "cannot be written"),
        (["chat", "m", "hello", "--max-new-tokens", "0"], "--max-new-tokens must be 1 or more"),
        (["chat", "/no/such/model", "hello"], "cannot be read as a model"),
        (["list", "--family", "cachers"], "did you mean 'cacher'"),
    ],
)
def test_a_mistake_is_one_line(words, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert answer in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_whisper_is_no_partner_to_chat_with_and_a_denoiser_transcribes_nothing(whisper, capsys, tmp_path):
    sound = str(whisper / "talk.wav")
    assert main(["transcribe", str(zoo.path("dit")), sound, "--out", str(tmp_path)]) == 2
    assert main(["chat", str(zoo.path("dit")), "hello"]) == 2
    assert "no language model with a tokenizer" in capsys.readouterr().err


def test_a_conversation_goes_on_from_what_was_said(capsys, monkeypatch):
    model, tokenizer = load_language("llama")
    place = str(folder("llama"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("In the beginning\n\nAnd he said\n"))
    assert main(["chat", place, "--max-new-tokens", "6"]) == 0
    told, said = capsys.readouterr().out, []
    for message in ("In the beginning", "And he said"):
        said.append(message)
        read = tokenizer("\n".join(said), return_tensors="pt")
        made = model.generate(**read, max_new_tokens=6, do_sample=False)[0, read["input_ids"].shape[1] :]
        said.append(tokenizer.decode(made, skip_special_tokens=True))
        assert said[-1].strip() in " ".join(told.split())


def test_list_can_be_narrowed(capsys):
    assert main(["list", "--kind", "speech", "--family", "batcher", "--json"]) == 0
    assert {entry["family"] for entry in json.loads(capsys.readouterr().out)} == {"batcher"}
