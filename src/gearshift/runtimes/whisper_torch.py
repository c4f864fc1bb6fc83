"""A transcriber in torch: transformers' own Whisper, whatever was done to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gearshift.core.record import Record, attach, record_of
from gearshift.persist.libraries.transformers import LOCAL
from gearshift.persist.reload import load
from gearshift.persist.store import save
from gearshift.runtimes.speech.torch_engine import TorchEngine
from gearshift.runtimes.speech.vad import Span, by_energy
from gearshift.runtimes.transcriber import SETTINGS, Transcriber

MODEL = "model"


class TorchTranscriber(Transcriber):
    """Whisper in torch; pauses are found by how loud the sound is.

    Attributes:
        model: transformers' Whisper.
        weight_bits: 16: weights are rounded to float16, and computed with in float32 where `dtype` says so; 32.
        dtype: what the model computes in.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        weight_bits: int,
        dtype: torch.dtype,
        batch_size: int = 1,
        seed: int = 0,
        before: Record | None = None,
    ) -> None:
        self.processor, self.batch_size, self.seed = processor, batch_size, seed
        self.weight_bits, self.dtype, self._before = weight_bits, dtype, before or Record()
        if weight_bits == 16:
            cast(model, torch.float16)
        cast(model, dtype)
        model.generation_config._from_model_config = False  # or transformers makes another one when it reads it back
        self.components = {MODEL: model.eval()}
        self.engine = TorchEngine(model, processor.feature_extractor)

    @property
    def model(self) -> Any:
        return self.components[MODEL]

    def find(self, samples: np.ndarray) -> list[Span]:
        return by_energy(samples)

    def to(self, device: Any) -> TorchTranscriber:
        """Move to a device."""
        self.model.to(device)
        return self

    def save_pretrained(self, folder: Path) -> None:
        """Write the model as gearshift saves models, 16-bit weights in 16 bits, with processor and settings."""
        self.processor.save_pretrained(folder)
        record = record_of(self.model)
        with self._as_stored():
            attach(self.model, self._before)
            try:
                save(self.model, Path(folder) / MODEL)
            finally:
                attach(self.model, record)
        settings = {
            "weight_bits": self.weight_bits,
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        (Path(folder) / SETTINGS).write_text(json.dumps(settings, indent=1))

    @classmethod
    def from_pretrained(cls, folder: Path) -> TorchTranscriber:
        """Read a folder that `save_pretrained` wrote; on the CPU.

        Raises:
            BrokenFolder: if it holds no such model.
        """
        from transformers import WhisperProcessor

        settings = json.loads((Path(folder) / SETTINGS).read_text())
        model = load(Path(folder) / MODEL)
        return cls(
            model,
            WhisperProcessor.from_pretrained(folder, **LOCAL),
            settings["weight_bits"],
            getattr(torch, settings["dtype"]),
            settings["batch_size"],
            settings["seed"],
            record_of(model),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {str(self.dtype).removeprefix('torch.')})"

    @contextmanager
    def _as_stored(self) -> Iterator[None]:
        if self.weight_bits == 16:
            cast(self.model, torch.float16)
        try:
            yield
        finally:
            cast(self.model, self.dtype)


def cast(model: Any, dtype: torch.dtype) -> None:
    """Floating-point parameters in another type; what quantizers keep in buffers stays as it is."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
