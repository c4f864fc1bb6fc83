"""Every kind of layer that keeps its weight in few bits, made of a float one of 128 inputs or any multiple of 64."""

import torch

from gearshift.kernels.bitsandbytes_linear import FourBitLinear, LLMInt8Linear
from gearshift.kernels.fp8 import Fp8Linear
from gearshift.kernels.grouped import quantize
from gearshift.kernels.grouped_linear import GroupedLinear
from gearshift.kernels.higgs_linear import HiggsLinear
from gearshift.kernels.modules import Int8Linear
from gearshift.kernels.quanto_linear import QuantoLinear
from gearshift.kernels.static_int8 import Fixed
from gearshift.kernels.static_layers import StaticInt8Linear
from gearshift.kernels.torchao_linear import ROUNDED, TorchaoLinear
from gearshift.kernels.weight_only_linear import from_float


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
