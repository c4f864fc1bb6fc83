"""Transcribers: Whisper that takes recordings of any length and answers with text, a batch of pieces at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from gearshift.core.errors import BadValue
from gearshift.core.facts import Kind
from gearshift.core.model import Runtime
from gearshift.core.param import Choices, Param, Range
from gearshift.runtimes.speech.answer import answer, chunks, shown
from gearshift.runtimes.speech.audio import FORMS, RATE, as_samples
from gearshift.runtimes.speech.engines import Engine
from gearshift.runtimes.speech.live import Live
from gearshift.runtimes.speech.pieces import sections
from gearshift.runtimes.speech.tracks import Reader, Track
from gearshift.runtimes.speech.vad import Span
from gearshift.runtimes.speech.words import SPACELESS, Segment

SETTINGS = "transcriber.json"
SECTION = 2  # windows of speech that are worth being read apart from the rest
SHARED = 1 / 6  # of a piece, where two overlap
BATCH = Param(None, Range(1, 2**31 - 1, True), "pieces at once")
TIMES = Param(False, Choices((False, True, "word")), "what of the text has its time beside it")


@dataclass(frozen=True)
class Wishes:
    """What a call asks for; see `Transcriber.__call__`. `most` and `overlap` are samples of a piece."""

    language: str | None
    task: str
    timestamps: bool | str
    batch: int
    most: int
    overlap: int


class Transcriber(Runtime):
    """Whisper behind the call of transformers' pipeline for speech recognition.

    Attributes:
        engine: hears pieces of at most a window.
        processor: transformers' own: features of sound, and text of tokens.
        batch_size: pieces at once, unless a call says otherwise.
        seed: of the sampling that an unsure output falls back to.
    """

    kind = Kind.SPEECH
    engine: Engine
    processor: Any
    batch_size: int
    seed: int

    def find(self, samples: np.ndarray) -> list[Span]:
        """Where there is speech."""
        raise NotImplementedError

    def __call__(
        self,
        audio: Any,
        *,
        language: str | None = None,
        task: str = "transcribe",
        return_timestamps: bool | str = False,
        batch_size: int | None = None,
        progress: bool | Callable[[float, float], Any] = False,
        chunk_length_s: float | None = None,
        stride_length_s: float | None = None,
    ) -> Any:
        """Text of speech.

        Args:
            audio: a path of a sound file; an array or tensor of samples at 16 kHz; {"array": ..., "sampling_rate":
                ...} in any rate; a list of these; or an iterator of chunks of one recording.
            language: code such as 'en'; None: what the first window sounds like.
            task: 'transcribe', or 'translate' into English.
            return_timestamps: True: segments with their times; 'word': words with theirs.
            batch_size: pieces at once; None: the recipe's. A long recording is read in as many places side by side.
            progress: True shows a bar; a function is told seconds of speech that are done, and that there are.
            chunk_length_s: most seconds of a piece; None: the model's window.
            stride_length_s: seconds that two pieces share where there is no pause to cut at; None: a sixth of a piece.

        Returns:
            {"text": ...}, with timestamps also "chunks": [{"text": ..., "timestamp": (start, end)}, ...] in seconds;
            a list of these for a list.

        Raises:
            BadValue: for sound or settings that it cannot work with.
        """
        wishes = self._wishes(language, task, return_timestamps, batch_size, chunk_length_s, stride_length_s)
        if isinstance(audio, Iterator):
            return answer(list(self._live(audio, wishes)), return_timestamps)
        several = isinstance(audio, (list, tuple))
        if several and any(isinstance(item, (int, float)) for item in audio):
            raise BadValue(f"Sound is {FORMS}. Got a list of numbers instead; make it an array.")
        recordings = [as_samples(item) for item in (audio if several else [audio])]
        found = [answer(segments, return_timestamps) for segments in self._read(recordings, wishes, progress)]
        return found if several else found[0]

    def stream(
        self, audio: Iterator[Any], *, language: str | None = None, task: str = "transcribe", words: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Text of speech while it comes in: a window at a time, or sooner where the speaker pauses for two seconds.

        Args:
            audio: chunks of one recording, each as in a call.
            words: words instead of segments.

        Yields:
            {"text": ..., "timestamp": (start, end)}, in seconds of the stream.
        """
        wishes = self._wishes(language, task, "word" if words else True, 1, None, None)
        for segment in self._live(audio, wishes):
            yield from chunks([segment], wishes.timestamps)

    def _wishes(
        self,
        language: str | None,
        task: str,
        timestamps: bool | str,
        batch: int | None,
        chunk: float | None,
        stride: float | None,
    ) -> Wishes:
        name, window = type(self).__name__, self.engine.tokens.window
        self.engine.tokens.check(language, task)
        TIMES.check("return_timestamps", name, timestamps)
        size = BATCH.check("batch_size", name, self.batch_size if batch is None else batch)
        length = _within("chunk_length_s", name, chunk, window / 15, window, window)
        shared = _within("stride_length_s", name, stride, 0.0, length / 2, length * SHARED)
        return Wishes(language, task, timestamps, size, int(length * RATE), int(shared * RATE))

    def _read(self, recordings: Sequence[np.ndarray], wishes: Wishes, progress: Any) -> list[list[Segment]]:
        """Segments of each recording."""
        spans = [self.find(samples) for samples in recordings]
        tracks: list[list[Track]] = []
        for samples, found in zip(recordings, spans, strict=True):
            speech = sum(end - start for start, end in found)
            places = min(wishes.batch, ceil(speech / (SECTION * wishes.most)))
            tracks.append([Track(samples, part, wishes.most, wishes.overlap) for part in sections(found, places)])
        self._prepare([parts for parts in tracks if parts], wishes)
        everything = [track for parts in tracks for track in parts]
        with shown(progress, everything) as told:
            self._reader(wishes).read(everything, told)
        return [[segment for track in parts for segment in track.segments] for parts in tracks]

    def _live(self, audio: Iterator[Any], wishes: Wishes) -> Iterator[Segment]:
        track = Track(np.zeros(0, np.float32), [], wishes.most, wishes.overlap)
        live = Live(self._reader(wishes), self.find, track, lambda: self._prepare([[track]], wishes))
        for chunk in audio:
            yield from live.feed(as_samples(chunk))
        yield from live.finish()

    def _prepare(self, recordings: Sequence[Sequence[Track]], wishes: Wishes) -> None:
        """Tell the tracks of each recording its language and task."""
        tokens, languages = self.engine.tokens, [wishes.language] * len(recordings)
        if tokens.languages and wishes.language is None:
            firsts = [tracks[0].next().of(tracks[0].samples) for tracks in recordings]
            languages = [said for first in firsts for said in self.engine.languages(self.engine.encode([first]))]
        for tracks, language in zip(recordings, languages, strict=True):
            for track in tracks:
                track.prompt = tokens.prompt(language, wishes.task)
                track.spaceless = language in SPACELESS and wishes.task == "transcribe"

    def _reader(self, wishes: Wishes) -> Reader:
        timed = wishes.timestamps == "word"
        return Reader(self.engine, self._text, wishes.batch, self.seed, timed)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.processor.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _within(name: str, owner: str, value: float | None, low: float, high: float, default: float) -> float:
    if value is None:
        return default
    return float(Param(default, Range(low, high, False), "").check(name, owner, value))
