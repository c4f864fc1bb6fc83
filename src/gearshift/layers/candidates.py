"""The layers of fewer bits that a linear layer may be replaced with, for choosing by measured speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from gearshift.core.extras import installed
from gearshift.kernels.cpu import onednn
from gearshift.kernels.cuda.fp8 import multiplies
from gearshift.layers import float8
from gearshift.layers.int8 import Int8Linear
from gearshift.layers.weight_only import Int8WeightLinear


class Candidate(NamedTuple):
    """A kind of layer.

    Attributes:
        make: it from a float layer; from one on the meta device, an empty one for a state dict to be assigned to.
        runs: whether it has a product on a device that no other candidate has.
    """

    make: Callable[[nn.Linear], nn.Module]
    runs: Callable[[torch.device], bool]


def candidates(layer: nn.Linear) -> dict[str, Candidate]:
    """What runs on a layer's device with what is installed."""
    return {name: candidate for name, candidate in CANDIDATES.items() if candidate.runs(layer.weight.device)}


def _torchao(quant_type: str) -> Callable[[nn.Linear], nn.Module]:
    def make(layer: nn.Linear) -> nn.Module:
        from gearshift.layers.vendors.torchao import TorchaoLinear

        return TorchaoLinear.from_float(layer, quant_type)

    return make


def _has_torchao(device: torch.device) -> bool:
    """Whether torchao multiplies itself; on x86 CPUs gearshift's products do, which are candidates already."""
    return installed("torchao") and not (device.type == "cpu" and onednn.available())


CANDIDATES = {
    "int8": Candidate(Int8Linear.from_float, lambda device: device.type in ("cpu", "cuda")),
    "int8 weights": Candidate(Int8WeightLinear.from_float, lambda device: device.type == "cpu"),
    "float8": Candidate(float8.Fp8Linear.from_float, multiplies),
    "torchao int8dq": Candidate(_torchao("int8dq"), _has_torchao),
    "torchao int8wo": Candidate(_torchao("int8wo"), _has_torchao),
    "torchao fp8dq": Candidate(_torchao("fp8dq"), lambda device: _has_torchao(device) and multiplies(device)),
}
