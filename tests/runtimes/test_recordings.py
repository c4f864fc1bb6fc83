"""Whole recordings to text: nothing is lost, said twice or made up, whatever the pauses."""

import itertools
import random

import numpy as np
import pytest
from support.each import each
from support.whisper import TIME, TOKENS, TONE, ToneTranscriber, say, spoken

from gearshift.core.errors import BadValue
from gearshift.runtimes.speech.audio import RATE
from gearshift.runtimes.speech.engines import Output
from gearshift.runtimes.speech.fallback_decoding import hear

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


MUMBLED = Output((TIME, 1, 2, TIME + 50), -1.5, 0.3)  # unsure words, and somebody speaks
LIKELY = Output((TIME, 1, 2, TIME + 50), -0.3, 0.9)  # sure words, where nobody seems to speak
INVENTED = Output((TIME, 1, 2, 3, 4, TIME + 50), -2.4, 0.2)  # no word is likely
DOUBTED = Output((TIME, 1, TIME + 50), -1.4, 0.5)  # unsure of the words and of the speaker
HUMMED = Output((TIME, *[7] * 200, TIME + 50), -0.1, 0.5)


@pytest.mark.parametrize("answers", [[INVENTED], [DOUBTED], [HUMMED], [HUMMED, INVENTED, DOUBTED]])
def test_nothing_is_said_rather_than_something_made_up(answers):
    (heard,) = hear(Scripted(*answers), [np.zeros(9)], [[0]], [0], say)
    assert heard.output == ()


@each("answer", [SURE, UNSURE, MUMBLED, LIKELY, LOOP])
def test_unsure_words_of_somebody_who_speaks_are_kept(answer):
    (heard,) = hear(Scripted(answer), [np.zeros(9)], [[0]], [0], say)
    assert heard.output == answer.tokens


@each(("text", "kept"), [(" .", False), (" ...", False), ("\u266a", False), (" 7", True), ("\u306d", True)])
def test_an_output_without_a_letter_is_no_text(text, kept):
    (heard,) = hear(Scripted(SURE), [np.zeros(9)], [[0]], [0], lambda tokens: text)
    assert (heard.output == SURE.tokens) is kept


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


@each("pausing", ["often", "never", "sometimes"])
@each("habits", [{}, {"leaves": True}, {"drops": True}])
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


@each(
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
)
def test_settings_out_of_bounds_are_told_in_a_sentence(wrong, message):
    with pytest.raises(BadValue, match=message):
        ToneTranscriber()(np.zeros(RATE, np.float32), **wrong)
    with pytest.raises(BadValue, match="list of numbers"):
        ToneTranscriber()([0.0, 0.1])
