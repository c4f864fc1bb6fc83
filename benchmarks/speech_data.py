"""Speech whose text is known: short passages read by espeak-ng in several voices, with pauses; and the word error rate.

python benchmarks/speech_data.py speech.wav        writes ten minutes of it, and speech.txt beside it

Needs the program espeak-ng (`apt-get install espeak-ng`). The same arguments give the same samples on one machine.
"""

from __future__ import annotations

import io
import random
import re
import shutil
import subprocess
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gearshift.core.files import write_atomically
from gearshift.evaluate.measures.speech import word_errors, words_of
from gearshift.runtimes.speech.audio import RATE, read_audio, resample

PASSAGES = """
The sun came up over the hills this morning. My father was already in the garden. He likes to water the plants before
it gets too hot. My mother made a pot of coffee and some toast. We all sat at the table and talked about the day. Then
the dog began to bark at the door. It was only our neighbor with a basket of apples. She said that the tree had given
too many this year. We thanked her and asked her to come in. She stayed for a cup of coffee.

I take the train to work every day. The station is a short walk from my house. In the winter the platform is very
cold. I always bring a book to read on the way. Yesterday I met an old friend from school. We had not seen each other
for many years. He told me about his new job at the hospital. He works at night and sleeps during the day. I got off
at the next stop and waved to him. I hope to see him again soon.

The children went to the beach after lunch. They built a big castle out of wet sand. The waves were small and the
water was warm. My sister found a green stone and put it in her pocket. A white bird landed on the castle and looked
around. The boys ran after it and laughed. In the afternoon the wind became strong. We packed our bags and walked back
to the car. Everyone was tired and happy. The little ones fell asleep on the way home.

There is a small shop at the end of our street. It sells bread, milk, and fresh fruit. The owner is a kind old man
with a gray beard. He knows the name of every person who comes in. When I was a boy he used to give me candy. Now I
buy my newspaper there every morning. Last week he told me that he wants to close the shop. His back hurts and he
would like to rest. I said that the whole street would miss him. He smiled and gave me an orange.

Our teacher read us a story about a bear. The bear lived alone in a deep forest. One day he found a small bird under a
tree. The bird had hurt its wing and could not fly. The bear carried it home and gave it some water. All winter long
they stayed together in the warm cave. In the spring the bird was strong again. It flew up into the blue sky and sang.
The bear watched it from the top of the hill. He was sad, but he was proud too.

Last summer we drove across the country. My brother sat in front and looked at the map. The roads were long and
straight, and the land was flat. At night we slept in a tent under the stars. It rained only one time, and we did not
mind. We saw horses near the river and cows in the fields. In one small town we ate the best soup of my life. The cook
would not tell us how she made it. I still think about that soup. Some day I will go back and ask her again.

My grandmother lives on a farm in the north. She has chickens, two horses, and an old cat. Every morning she gets up
before the sun. First she feeds the animals and then she lights the stove. When I visit her I help in the kitchen. We
bake bread and make jam out of berries. In the evening we sit by the fire and play cards. She wins almost every game.
I asked her for the secret. She only laughed and said that she has had more practice.

The weather has been strange this month. On Monday it snowed, and on Tuesday it was warm. The flowers do not know what
to do. My neighbor planted his beans too early. The frost killed all of them in a single night. He will have to start
again next week. My own garden is full of weeds. I should have worked in it last weekend. Instead I stayed in bed and
read a long book. It was a very good book, so I am not sorry.

The doctor told him to walk more. So he bought a pair of good shoes. At first he walked only around the park. After a
week he felt better and went farther. He found streets that he had never seen before. There was a house with a blue
door and a garden full of roses. There was a bakery with the smell of warm bread. He began to know the people and
their dogs. Now he walks for an hour every evening. He says that it is the best part of his day.

She wanted to learn how to play the piano. There was no piano in her house, so she went to the church. The old priest
let her practice there after school. At first she played very slowly. Her fingers were stiff and she made many
mistakes. But she came back every day and never gave up. In the spring she played for the whole village. People stood
up and clapped their hands. Her mother cried a little. The priest said that he had known it all along.

We are going to paint the kitchen on Saturday. My wife wants yellow walls and a white ceiling. I would like something
darker, but I do not say so. We have moved the table and the chairs to the hall. The paint is in the garage next to
the ladder. My cousin has promised to help us. He painted his own house last year. It looks nice if you do not stand
too close. We will order some pizza when the work is done. Then we will open the windows and go for a walk.

The meeting starts after lunch. Please bring your notes and a pen. We need to talk about the plan for the next year.
Some of us want to build a bigger office. Others think that we should save the money. I would like to hear what
everybody has to say. Please do not talk all at the same time. We will take a short break in the middle. There will be
tea and cake in the next room. At the end we will vote, and then we can all go home.

A storm hit the coast during the night. The wind broke many trees and the lights went out. Nobody in the town was
hurt. In the morning people came out to look at the damage. A large branch had fallen on the roof of the school. The
children did not have to go to class that day. The men brought saws and ropes from their homes. The women cooked
soup for everyone. By the evening the street was clear again. It was hard work, but it felt like a holiday.

My uncle was a sailor when he was young. He has been to every part of the world. On his arm there is a picture of a
ship. He tells us about storms and about whales. Once he fell into the water in the dark. He held on to a piece of
wood until the morning. Then a fishing boat came and pulled him out. He has been afraid of the dark ever since. Now he
lives on a hill, far away from the sea. He says that he can still hear it when he sleeps.

The library is my favorite place in the city. It is quiet and the chairs are soft. A woman with red glasses works at
the front desk. She always finds the book that I am looking for. On rainy days the rooms are full of students. They
whisper and drink water out of bottles. I like to sit near the window on the second floor. From there I can see the
bridge and the river. Boats go by, and the people on them wave. I read a page, and then I look at the water.
"""
VOICES = ("en-us", "en-gb", "en-us+m3", "en-gb-x-rp", "en-us+m7", "en-gb+m4", "en-us+f2")


@dataclass(frozen=True)
class Speech:
    """Samples [n], float32 in [-1, 1] at 16 kHz, and what is said in them."""

    samples: np.ndarray
    text: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def speech(seconds: float = 600.0, seed: int = 0) -> Speech:
    """At least so many seconds of passages; each has its voice, speed and pitch, sentences are set apart by pauses."""
    draw = random.Random(seed)
    passages = [" ".join(p.split()) for p in PASSAGES.strip().split("\n\n")]
    parts, said, length, turn = [quiet(0.5, seed)], [], 0.0, 0
    while length < seconds:
        voice, speed, pitch = VOICES[turn % len(VOICES)], draw.randint(120, 150), draw.randint(35, 60)
        for sentence in re.findall(r"[^.]+\.", passages[turn % len(passages)]):
            parts += [spoken(sentence.strip(), voice, speed, pitch), quiet(draw.uniform(0.3, 0.9), len(parts))]
            said.append(sentence.strip())
            length = sum(map(len, parts)) / RATE
            if length >= seconds:
                break
        parts.append(quiet(draw.uniform(1.0, 4.0), len(parts)))
        turn += 1
    return Speech(np.concatenate(parts), " ".join(said))


def spoken(sentence: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """One sentence read by espeak-ng without the silence around it; speed in words per minute, pitch from 0 to 99."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("This needs the program espeak-ng; install it with: apt-get install espeak-ng")
    command = [program, "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", sentence]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(raw)) as file:
        rate, data = file.getframerate(), raw[44:]  # espeak-ng cannot know the length it writes into the header
    samples = resample(np.frombuffer(data, np.int16).astype(np.float32) / 32768, rate)
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1]


def quiet(seconds: float, seed: int) -> np.ndarray:
    """A pause with the faint noise of a room."""
    noise = np.random.default_rng(seed).normal(0.0, 3e-4, int(seconds * RATE))
    return noise.astype(np.float32)


def word_error_rate(wanted: str, got: str) -> float:
    """Word errors per word that was said, of normalized words; 0.05 is five in a hundred."""
    ((percent, _),) = word_errors(wanted, got)
    return percent / 100


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Mono, 16 kHz, 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "speech.wav")
    made = speech()
    write_wav(target, made.samples)
    write_atomically(target.with_suffix(".txt"), made.text + "\n")
    again = read_audio(target)
    print(f"{target}: {len(again) / RATE:.0f} s, {len(words_of(made.text).split())} words")


if __name__ == "__main__":
    main()
