"""Whisper on long recordings: transformers' own way, gearshift's transcribers, and how others cut and batch.

The recording is made by espeak-ng (benchmarks/speech_data.py), so that every word is known. All rows take turns, on
all cores, seconds of the clock, the better of two rounds. The word error rate is that of normalized words; 'length' is
the length of the transcript over that of transformers' sequential one.

usage: python benchmarks/speech.py FOLDER [--minutes 10] [--threads N] [--quick]

FOLDER is a Whisper in transformers' format.

Prints the table; a whole run writes benchmarks/speech.md and .json. Needs espeak-ng and
`pip install -e '.[transformers,speech]'`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speech_data import RATE, Speech, speech, word_error_rate
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

import gearshift as gs
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine_description

Call = Callable[[Speech], str]
PLAIN, BEST, BATCH = "transformers, sequential", "whisper_s2t int8, batch 8", 8
COLUMNS = [
    Column("wer", "word errors", "%", ".2f", "lower"),
    Column("length", "length", "of sequential", ".3f"),
    Column("factor", "real-time factor", "s/s", ".1f", "higher"),
    Column("speedup", "speed-up", "x", ".2f", "higher", worse="slower"),
]
NOTE = (
    "Real-time factor: seconds of sound for a second of the clock. `c_whisper` hears one window at a time, in "
    "transformers' own order. `transformers, pipeline` is its chunked pipeline (chunk_length_s=30, strides of 5 s), "
    "`faster-whisper, batched` its BatchedInferencePipeline, greedy; neither makes an unsure text again."
)


class Rows:
    """What transcribes, by name; models are loaded from one folder."""

    def __init__(self, folder: Path, scratch: Path, quick: bool) -> None:
        self.folder, self.scratch = folder, scratch
        self.processor = WhisperProcessor.from_pretrained(folder)
        sizes = (1, BATCH) if quick else (1, 4, BATCH)
        self.calls: dict[str, Call] = {PLAIN: self.sequential(self.model())}
        self.recipes: dict[str, str] = {}
        for size in sizes:
            self.add(f"ifw, batch {size}", "ifw(weight_bits=32)", size)
        for bits, name in ((16, "float32"), (8, "int8")):
            converted = gs.optimize(self.model(), {"c_whisper": {"weight_bits": bits}}, processor=self.processor)
            self.calls[f"c_whisper {name}"] = self.sequential(converted)
            self.recipes[f"c_whisper {name}"] = f"c_whisper(weight_bits={bits})"
        for size in sizes[-1:] if quick else sizes:
            self.add(f"whisper_s2t float32, batch {size}", "whisper_s2t", size)
            self.add(f"whisper_s2t int8, batch {size}", "whisper_s2t(int8=True)", size)
        self.calls["transformers, pipeline, batch 8"] = self.chunked()
        self.calls["faster-whisper, batched int8, batch 8"] = self.faster()

    def model(self) -> Any:
        return WhisperForConditionalGeneration.from_pretrained(self.folder, dtype=torch.float32).eval()

    def add(self, name: str, recipe: str, size: int) -> None:
        made = gs.optimize(self.model(), recipe, batch_size=size, processor=self.processor)
        self.recipes[name] = recipe
        self.calls[name] = lambda recording: made(recording.samples)["text"]

    def sequential(self, model: Any) -> Call:
        """Window after window, as `generate` does with long recordings; no window is made again."""

        def call(recording: Speech) -> str:
            given = {"return_tensors": "pt", "truncation": False, "padding": "longest", "return_attention_mask": True}
            made = self.processor(recording.samples, sampling_rate=RATE, **given)
            with torch.no_grad():
                tokens = model.generate(**made, return_timestamps=True)
            return str(self.processor.batch_decode(tokens, skip_special_tokens=True)[0])

        return call

    def chunked(self) -> Call:
        parts = {"tokenizer": self.processor.tokenizer, "feature_extractor": self.processor.feature_extractor}
        asr = pipeline("automatic-speech-recognition", self.model(), **parts, chunk_length_s=30, batch_size=BATCH)
        return lambda recording: asr({"raw": recording.samples.copy(), "sampling_rate": RATE})["text"]

    def faster(self) -> Call:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        converted = gs.optimize(self.model(), {"c_whisper": {"weight_bits": 8}}, processor=self.processor)
        place = self.scratch / "faster"
        shutil.copytree(converted.folder, place)
        self.processor.tokenizer.save_pretrained(place)
        model = WhisperModel(str(place), compute_type="int8", cpu_threads=torch.get_num_threads())
        batched = BatchedInferencePipeline(model)

        def call(recording: Speech) -> str:
            segments, _ = batched.transcribe(recording.samples, batch_size=BATCH, beam_size=1, language="en")
            return "".join(segment.text for segment in segments)

        return call


def measured(calls: dict[str, Call], recording: Speech, rounds: int) -> tuple[dict[str, str], dict[str, float]]:
    """Texts, and the best seconds of the clock, all rows taking turns."""
    texts: dict[str, str] = {}
    seconds = dict.fromkeys(calls, float("inf"))
    brief = Speech(recording.samples[: 10 * RATE], "")
    for call in calls.values():
        call(brief)
    for _ in range(rounds):
        for name, call in calls.items():
            before = time.perf_counter()
            texts[name] = call(recording)
            seconds[name] = min(seconds[name], time.perf_counter() - before)
            print(f"{name}: {seconds[name]:.1f} s", flush=True)
    return texts, seconds


def rows_of(rows: Rows, recording: Speech, rounds: int) -> list[Row]:
    texts, seconds = measured(rows.calls, recording, rounds)
    found = []
    for name, text in texts.items():
        cells = {
            "wer": 100 * word_error_rate(recording.text, text),
            "length": len(text) / len(texts[PLAIN]),
            "factor": recording.seconds / seconds[name],
            "speedup": seconds[PLAIN] / seconds[name],
        }
        found.append(Row(name, rows.recipes.get(name, ""), cells, best=name == BEST, original=name == PLAIN))
    return found


def verdict(found: list[Row]) -> str:
    """What was to be shown, and whether it was."""
    cells: dict[str, Any] = {row.name: row.cells for row in found}
    ours = [name for name in cells if name.startswith(("ifw", "whisper_s2t"))]
    more = max(cells[name]["wer"] - cells[PLAIN]["wer"] for name in ours)
    apart = max(abs(cells[name]["length"] - 1) for name in ours)
    lines = [
        f"- Word errors of ifw and whisper_s2t: at most {more:+.2f} points from the sequential ones (wanted: +1).",
        f"- Length: at most {apart:.1%} from the sequential one (wanted: 3 %).",
        f"- {BEST}: {cells[BEST]['speedup']:.2f} times the real-time factor of transformers (wanted: 2.5), "
        f"{cells[BEST]['factor'] / cells['c_whisper int8']['factor']:.2f} times that of c_whisper int8 (wanted: 1).",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="90 seconds, fewer rows, one round; nothing is written")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    recording = speech(90.0 if options.quick else 60 * options.minutes)
    with tempfile.TemporaryDirectory() as scratch:
        found = rows_of(Rows(options.folder, Path(scratch), options.quick), recording, 1 if options.quick else 2)
    words = len(recording.text.split())
    about = (
        f"{machine_description()}; {recording.seconds:.0f} s of speech, {words} words; {options.folder.name}; greedy."
    )
    page = f"# Speech to text\n\n{about}\n\n{to_markdown(COLUMNS, found)}\n{verdict(found)}\n\n{NOTE}\n"
    print(page)
    if not options.quick:
        here = Path(__file__).with_suffix("")
        write_atomically(here.with_suffix(".md"), page)
        data = json.loads(to_json(COLUMNS, found, about=about))
        write_atomically(here.with_suffix(".json"), json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
