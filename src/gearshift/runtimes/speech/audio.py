"""Sound from files, arrays, tensors and streams, as one channel of float32 samples at 16 kHz."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import ceil, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gearshift.core.errors import BadValue, MissingExtra, told
from gearshift.core.extras import installed

RATE = 16_000
CHANNELS = 32  # more are no sound but features
LOUDEST = 100.0  # floats that are larger were never scaled
ZEROS = 12  # zero crossings of the resampling filter on either side
FORMS = (
    "a path of a sound file, an array or tensor of samples at 16 kHz, {'array': ..., 'sampling_rate': ...}, a list of "
    "these, or an iterator of chunks"
)


def as_samples(audio: Any) -> np.ndarray:
    """Samples [n] at 16 kHz, float32 in [-1, 1].

    Args:
        audio: a path; an array or tensor [n], [channels, n] or [n, channels] at 16 kHz, floats in [-1, 1] or integers
            of full scale; or {"array": ..., "sampling_rate": ...} ("raw" is as good as "array") in any rate.

    Raises:
        BadValue: for anything else, for samples that are not finite, and for files that cannot be read.
    """
    if isinstance(audio, (str, os.PathLike)):
        return read_audio(audio)
    if isinstance(audio, Mapping):
        array = next((audio[name] for name in ("array", "raw") if name in audio), None)
        rate = audio.get("sampling_rate")
        if array is None or not isinstance(rate, (int, np.integer)) or rate < 1:
            raise BadValue("A dict of sound needs 'array', the samples, and 'sampling_rate', an int in Hz.")
        return resample(_mono(array), int(rate))
    return _mono(audio)


def chunks_of(stream: Iterator[Any]) -> Iterator[np.ndarray]:
    """The chunks of a stream as samples."""
    return (as_samples(chunk) for chunk in stream)


def read_audio(path: str | os.PathLike[str]) -> np.ndarray:
    """A sound file's samples: WAV by the standard library, everything else by soundfile or PyAV, if they are there.

    Raises:
        BadValue: if there is no such file, or nothing here can read it.
        MissingExtra: if it would take a package that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise BadValue(f"There is no sound file {str(path)!r}.")
    try:
        return _read_wav(path)
    except (wave.Error, EOFError):
        pass  # another format, or a WAV of floats, which the standard library does not read
    for package, read in (("soundfile", _read_by_soundfile), ("av", _read_by_av)):
        if installed(package):
            try:
                return read(path)
            except Exception as error:
                raise BadValue(f"{str(path)!r} cannot be read as sound: {told(error)}") from error
    raise MissingExtra(
        f"{str(path)!r} is not a WAV file of whole numbers; reading it needs the package soundfile or av. "
        "Install one with: pip install 'gearshift[speech]'"
    )


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples [n] of `rate` Hz at 16 kHz, through a sinc under a Hann window; float32, n * 16000 / rate of them."""
    if rate == RATE:
        return samples
    ratio = Fraction(RATE, rate).limit_denominator(1000)
    up, down = ratio.numerator, ratio.denominator
    cutoff = 0.97 * min(up, down)
    width = ceil(ZEROS * down / cutoff)
    at = torch.arange(-width, width + down)[None] / down - torch.arange(up)[:, None] / up
    at = (at.double() * cutoff).clamp(-ZEROS, ZEROS)
    kernel = torch.sinc(at) * torch.cos(at * pi / ZEROS / 2) ** 2 * (cutoff / down)
    sound = F.pad(torch.as_tensor(samples, dtype=torch.float32)[None, None], (width, width + down))
    out = F.conv1d(sound, kernel[:, None].float(), stride=down)[0].T.reshape(-1)
    return out[: round(len(samples) * up / down)].contiguous().numpy()


def _mono(audio: Any) -> np.ndarray:
    """Samples of an array or tensor; of two axes the shorter one is the channels."""
    if torch.is_tensor(audio):
        audio = audio.detach().cpu().float() if audio.is_floating_point() else audio.detach().cpu()
    if not isinstance(audio, (np.ndarray, torch.Tensor)):
        raise BadValue(f"Sound is {FORMS}. Got {type(audio).__name__} instead.")
    array = np.asarray(audio)
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or (array.ndim == 2 and min(array.shape) > CHANNELS):
        raise BadValue(
            f"Samples are numbers of shape [n], [channels, n] or [n, channels], with at most {CHANNELS} channels. "
            f"Got {array.dtype} {list(array.shape)}."
        )
    if not array.size:
        return np.zeros(0, np.float32)
    rows = array[None] if array.ndim == 1 else array
    return _mixed(rows.T if rows.shape[0] > rows.shape[1] else rows)


def _mixed(array: np.ndarray) -> np.ndarray:
    """The mean of all channels of [channels, n], in [-1, 1]."""
    if array.dtype.kind != "f" and array.dtype.itemsize > 4:
        raise BadValue(f"Whole numbers are sound in 8, 16 or 32 bits, of full scale. Got {array.dtype}; cast them.")
    full = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    middle = (full + 1) / 2 if array.dtype.kind == "u" else 0.0
    samples = ((array.astype(np.float32) - middle) / (full - middle)).astype(np.float32).mean(0)
    if not np.isfinite(samples).all():
        raise BadValue("Some samples are infinite or not a number.")
    if samples.size and (most := float(np.abs(samples).max())) > LOUDEST:
        raise BadValue(f"Samples that are floats lie in [-1, 1]. These reach {most:.4g}: divide them by full scale.")
    return np.ascontiguousarray(samples)


def _read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
        raw = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    raw = raw[: len(raw) // (channels * width) * channels * width]
    if width == 3:  # a zero byte below makes 24 bits 32
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = raw.reshape(-1, 3)
        raw, width = padded.reshape(-1), 4
    numbers = raw.view({1: "u1", 2: "<i2", 4: "<i4"}[width])
    return resample(_mixed(numbers.reshape(-1, channels).T), rate)


def _read_by_soundfile(path: Path) -> np.ndarray:
    import soundfile

    samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    return resample(_mixed(samples.T), rate)


def _read_by_av(path: Path) -> np.ndarray:
    import av

    found = []
    with av.open(str(path)) as file:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        for frame in file.decode(audio=0):
            found += resampler.resample(frame)
        found += resampler.resample(None)
    return _mono(np.concatenate([frame.to_ndarray()[0] for frame in found] or [np.zeros(0, np.float32)]))
