"""Every kind of layer that keeps its weight in few bits, made of a float one of 128 inputs or any multiple of 64."""

import torch

from gearshift.layers.float8 import Fp8Linear
from gearshift.layers.grouped import GroupedLinear
from gearshift.layers.higgs import HiggsLinear
from gearshift.layers.int8 import Int8Linear
from gearshift.layers.static_int8 import StaticInt8Linear
from gearshift.layers.vendors.bitsandbytes import FourBitLinear, LLMInt8Linear
from gearshift.layers.vendors.quanto import QuantoLinear
from gearshift.layers.vendors.torchao import ROUNDED, TorchaoLinear
from gearshift.layers.weight_only import from_float
from gearshift.quant.formats.fixed_range import Fixed
from gearshift.quant.formats.grouped import quantize


def static(layer):
    width = layer.in_features
    return StaticInt8Linear.of(layer, Fixed(torch.full((width,), 0.03), torch.full((width,), 128, dtype=torch.uint8)))


def scaled(layer):
    twos = torch.full((layer.in_features,), 2.0)
    return GroupedLinear.of(layer, quantize(layer.weight / 2, 4, 64), twos)


MAKERS = {
    "int8": Int8Linear.from_float,
    "uint8": lambda layer: Int8Linear.from_float(layer, unsigned=True),
    "static": static,
    "fp8": Fp8Linear.from_float,
    "weights 8": lambda layer: from_float(layer, 8),
    "weights 4": lambda layer: from_float(layer, 4),
    "grouped 3": lambda layer: GroupedLinear.of(layer, quantize(layer.weight, 3, 48)),
    "grouped scaled": scaled,
    "higgs": HiggsLinear.from_float,
    "bitsandbytes 8": LLMInt8Linear.from_float,
    "bitsandbytes 4": lambda layer: FourBitLinear.from_float(layer, "nf4", True),
    **{kind: lambda layer, kind=kind: TorchaoLinear.from_float(layer, kind) for kind in ROUNDED},
    **{kind: lambda layer, kind=kind: QuantoLinear.from_float(layer, kind) for kind in ("qint2", "qint4", "qint8")},
}
