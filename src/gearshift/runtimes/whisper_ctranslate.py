"""A transcriber in CTranslate2: Whisper in C++, and a network that finds speech."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from gearshift.runtimes.conversion import engine, opened_model
from gearshift.runtimes.decoding import NEVER
from gearshift.runtimes.speech.ctranslate_engine import CTranslateEngine
from gearshift.runtimes.speech.vad import Span, by_silero
from gearshift.runtimes.transcriber import SETTINGS, Transcriber
from gearshift.runtimes.whisper import WhisperGenerator

T = TypeVar("T")


class CTranslateTranscriber(Transcriber):
    """Whisper in CTranslate2; pauses are found by the Silero network.

    Attributes:
        runtime: the converted model.
        int8: whether int8 is computed with, whatever the width of the weights on disk.
    """

    def __init__(
        self, runtime: WhisperGenerator, processor: Any, int8: bool, batch_size: int = 1, seed: int = 0
    ) -> None:
        self.runtime, self.processor, self.int8 = runtime, processor, int8
        self.batch_size, self.seed = batch_size, seed
        self.components = {}
        runtime.tokenizer = processor  # so that it is saved with it
        self._open()

    def find(self, samples: np.ndarray) -> list[Span]:
        return by_silero(samples, torch.get_num_threads())

    def to(self, device: Any) -> CTranslateTranscriber:
        """Move to a device: its weights are read anew."""
        self.runtime.to(device)
        self._open()
        return self

    def size_bytes(self) -> int:
        """Bytes of the weights in memory, those on disk rounded to the engine's width."""
        rounded = self.int8 and self.runtime.weight_bits == 16
        return (self.runtime.folder / "model.bin").stat().st_size // 2 if rounded else self.runtime.size_bytes()

    def save_pretrained(self, folder: Path) -> None:
        """Write what the converted model writes, and the settings.

        Raises:
            BrokenFolder: if the folder that this model was loaded from is gone.
        """
        self.runtime.save_pretrained(folder)
        settings = {"int8": self.int8, "batch_size": self.batch_size, "seed": self.seed}
        (Path(folder) / SETTINGS).write_text(json.dumps(settings, indent=1))

    @classmethod
    def from_pretrained(cls, folder: Path) -> CTranslateTranscriber:
        """Read a folder that `save_pretrained` wrote; on the CPU.

        Raises:
            BrokenFolder: if it holds no such model.
        """
        runtime = WhisperGenerator.from_pretrained(folder)
        settings = json.loads((Path(folder) / SETTINGS).read_text())
        return cls(runtime, runtime.processor, settings["int8"], settings["batch_size"], settings["seed"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.runtime!r})"

    def _open(self) -> None:
        self._computing = "int8" if self.int8 else self.runtime.compute_type
        self.runtime.engine = None  # at most one copy of the weights
        self.runtime.engine = self._worker(self.batch_size)
        self.engine = CTranslateEngine(
            self.runtime.engine,
            self._sampled,
            self.processor.feature_extractor,
            self.runtime.config,
            self.runtime.generation_config,
        )

    def _worker(self, batch: int = 1) -> Any:
        """The engine. On a CPU pieces of a batch share the threads: one piece in one thread wastes none of it."""
        device, threads = self.runtime.device, torch.get_num_threads()
        places = min(batch, threads) if device.type == "cpu" else 1
        return opened_model(
            engine().models.Whisper,
            self.runtime.folder,
            device,
            compute_type=self._computing,
            inter_threads=places,
            intra_threads=threads // places,
        )

    def _sampled(self, seed: int, run: Callable[[Any], T]) -> T:
        """Run with a worker whose sampling begins with a seed: it draws its random state once, at its first sample."""
        engine().set_random_seed(seed % NEVER)
        try:
            return run(self._worker())
        finally:
            engine().set_random_seed(NEVER)  # as it is when nobody has set one
