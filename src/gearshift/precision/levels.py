"""Precision: the gears that a denoiser's arithmetic can be in, from lowest to highest."""

from __future__ import annotations

import re
from enum import Enum
from functools import total_ordering

from gearshift.core.errors import UnknownName


@total_ordering
class Precision(Enum):
    """A number format of weights and arithmetic; ordered INT4 < INT8 < FP8 < BF16 < FP16 < FP32.

    Speed and quality are priors for planning without a measurement: what bits suggest, not what a model shows.

    Attributes:
        bits: bits per weight, without scales.
        nominal_quality: prior of the quality kept, 1 for FP32.
    """

    bits: int
    nominal_quality: float

    INT4 = ("int4", 4, 0.92)
    INT8 = ("int8", 8, 0.97)
    FP8 = ("fp8", 8, 0.98)
    BF16 = ("bf16", 16, 0.995)
    FP16 = ("fp16", 16, 0.998)
    FP32 = ("fp32", 32, 1.0)

    def __new__(cls, label: str, bits: int, quality: float) -> Precision:
        member = object.__new__(cls)
        member._value_ = label
        member.bits = bits
        member.nominal_quality = quality
        return member

    @property
    def bytes(self) -> float:
        """Bytes per weight; 0.5 for INT4."""
        return self.bits / 8

    @property
    def nominal_speedup(self) -> float:
        """Prior of the speed over FP16: 16 / bits, as if time went with the bytes of the weights."""
        return 16 / self.bits

    @property
    def is_lossless(self) -> bool:
        """Whether no weight of a float32 model is rounded: FP32 only."""
        return self is Precision.FP32

    def memory_ratio(self, relative_to: Precision | str | None = None) -> float:
        """Bytes of the weights over those at another precision, or at one that a name stands for (None: FP16)."""
        return self.bits / (Precision.FP16 if relative_to is None else Precision.parse(relative_to)).bits

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Precision):
            return NotImplemented
        return _RANK[self.value] < _RANK[other.value]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: object) -> Precision:
        """The precision that a name stands for: 'int4', 'i4', '4bit', 'half', 'bfloat16', or a torch dtype.

        Raises:
            UnknownName: with the nearest names.
        """
        if isinstance(text, cls):
            return text
        word = re.sub(r"[\s_-]", "", str(text).lower().removeprefix("torch."))
        if word not in _ALIASES:
            raise UnknownName("precision", text, [p.value for p in cls])
        return _ALIASES[word]


_RANK = {precision.value: rank for rank, precision in enumerate(Precision)}
_NAMES = {
    Precision.INT4: "int4 i4 4bit q4 w4 uint4",
    Precision.INT8: "int8 i8 8bit q8 w8",
    Precision.FP8: "fp8 f8 float8 float8e4m3fn float8e5m2",
    Precision.BF16: "bf16 bfloat16 bfloat",
    Precision.FP16: "fp16 f16 float16 half 16bit",
    Precision.FP32: "fp32 f32 float32 float single full 32bit",
}
_ALIASES = {word: precision for precision, words in _NAMES.items() for word in words.split()}
