"""Gears: layers that compute a denoising step in 4, 8 or 16 bits, from one nested copy of their weight.

Which gear is in is said by the sampling run, not by the layers, so that threads that share a denoiser can be at
different steps, and changing gear costs nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.change import Change
from gearshift.kernels import ops
from gearshift.layers.int8 import supports
from gearshift.layers.nested import drop_planes, give_up_weight, planes_of, put_planes, take_weight_back
from gearshift.models.layers import unsound
from gearshift.precision.levels import Precision
from gearshift.precision.weight_fingerprint import fingerprint
from gearshift.quant.formats.int8 import Quantized, dequantize
from gearshift.quant.formats.nested import Nested, nest
from gearshift.steps.gate import Gate
from gearshift.steps.run import Run, current

LOW = (Precision.INT4, Precision.INT8)  # what the nested store's int8 values are for; all else is the high gear
GOLDEN = 0.6180339887498949


class Mix(NamedTuple):
    """The gear of one step: this share of the layers is in `to` already, the others still in `start`."""

    start: Precision
    to: Precision
    share: float


class Operand(NamedTuple):
    """An int8 weight for the kernels, and the plane that it was made from: another one there makes it stale."""

    made_from: Any
    weight: Quantized


def bits_of(run: Run | None, turn: float) -> int:
    """4 or 8, the low gear that a layer with this turn is in now; 0 for the high one."""
    mix = None if run is None else run.gear
    if mix is None:
        return 0
    precision = mix.to if turn < mix.share else mix.start
    return precision.bits if precision in LOW else 0


@torch.compiler.assume_constant_result
def _traced_bits(turn: float) -> int:
    """The same while a graph is traced: there is one graph for each gear, so it is a constant there."""
    return bits_of(current(), turn)


class Geared(Gate):
    """Stands in a linear layer's or convolution's place and computes in the gear that the run's step is in.

    The planes are buffers of the layer that are not in its state dict, so that they move with it and are copied with
    it. They are made anew where the layer's weight is another than they were made of.

    Attributes:
        turn: in [0, 1); a blended step puts the layers below its share into the next gear.
        alone: the nested store is the only copy of the weight.
        economical: operands of gears that are not in use are dropped.
        weight_only: low gears multiply in the input's own type by the rounded weight; else both are rounded to 8 bits.
    """

    traced = True

    def __init__(
        self, module: nn.Linear | nn.Conv2d, turn: float, alone: bool, economical: bool, weight_only: bool
    ) -> None:
        super().__init__(module)
        self.turn, self.alone, self.economical, self.weight_only = turn, alone, economical, weight_only
        self.four: Operand | None = None  # attributes of their own: a graph for one gear must not notice the other
        self.eight: Operand | None = None
        self.followed: tuple[Any, ...] = ()  # what tells the weight that the planes were made of from another
        self.checked: weakref.ref[Run] | None = None  # the run at whose start the weight was last compared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.on:
            return self.compute(*args, **kwargs)
        bits = _traced_bits(self.turn) if torch.compiler.is_compiling() else bits_of(current(), self.turn)
        if bits == 0:
            return self._high(*args, **kwargs)
        return self._low(args[0] if args else kwargs["input"], Precision.INT4 if bits == 4 else Precision.INT8)

    @property
    def nested(self) -> Nested:
        return planes_of(self.module)

    def attach(self) -> None:
        super().attach()
        if self.module.weight.is_meta:  # offloaded leaf by leaf: there are values only while the layer runs
            self.followed = (None, None)
            return
        put_planes(self.module, nest(self.module.weight))
        if self.alone:
            give_up_weight(self.module)
        else:
            self.followed = (_marks(self.module.weight), fingerprint(self.module.weight))

    def _follow(self) -> None:
        """Make the planes anew if the layer's weight is another.

        Writing through `weight.data`, as merging an adapter does, leaves no mark on a tensor; so the values are
        compared as well, once in each run.
        """
        weight, run = self.module.weight, current()
        marks = _marks(weight)
        if self.followed[0] == marks and (run is None or (self.checked is not None and self.checked() is run)):
            return
        self.checked = None if run is None else weakref.ref(run)
        now = (marks, fingerprint(weight))
        if self.followed[1] != now[1]:
            put_planes(self.module, nest(weight))
        self.followed = now

    def detach(self) -> None:
        super().detach()
        self.four = self.eight = None
        if self.alone:
            take_weight_back(self.module)
        drop_planes(self.module)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "checked": None}

    def _high(self, *args: Any, **kwargs: Any) -> Any:
        if not self.alone:
            return self.compute(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        return self._float(x, self.nested.sixteen_bits(x.dtype))

    def _float(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if isinstance(self.module, nn.Linear):
            return F.linear(x, weight, self.module.bias)
        return F.conv2d(x, weight, self.module.bias, self.module.stride, self.module.padding)

    def _low(self, x: torch.Tensor, precision: Precision) -> torch.Tensor:
        weight = self.operand(precision)
        if self.weight_only:
            return self._float(x, dequantize(weight, x.dtype))
        if isinstance(self.module, nn.Linear):
            return ops.linear(x, weight, self.module.bias)
        return ops.conv2d(x, weight, self.module.bias, list(self.module.stride), list(self.module.padding))

    def prepare(self, run: Run | None) -> None:
        """Before a graph is traced: its operand is made, and stays, as the graph would not outlive it."""
        self.economical = False
        bits = bits_of(run, self.turn)
        if bits:
            self.operand(Precision.INT4 if bits == 4 else Precision.INT8)

    def operand(self, precision: Precision) -> Quantized:
        """The int8 weight of a low gear, made when it is first asked for, and again when the layer's was written to."""
        if not (self.alone or torch.compiler.is_compiling()):
            self._follow()
        plane = self.module._buffers["gear_coarse"]
        held = self.four if precision is Precision.INT4 else self.eight
        if held is None or held.made_from is not plane:
            store = self.nested
            if precision is Precision.INT4:
                self.four = held = Operand(plane, store.four_bits())
            else:
                self.eight = held = Operand(plane, store.eight_bits())
            if self.economical:
                self.four, self.eight = (held, None) if precision is Precision.INT4 else (None, held)
        return held.weight


def _marks(weight: torch.Tensor) -> tuple[Any, ...]:
    """What changes at most writes to a tensor, and costs nothing to compare."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version, weight.dtype, weight.device


@dataclass(eq=False)
class Shift(Change):
    """The change that puts a gear into a layer."""

    gives_back = True
    gate: Geared
    by: str

    def apply(self) -> None:
        self.gate.attach()

    def revert(self) -> None:
        self.gate.detach()

    def irreversible_reason(self) -> str | None:
        if not self.gate.alone:
            return None
        return f"{self.by} keeps the nested store alone (store='nested'): the original weights are gone."


def can_gear(layer: nn.Module) -> bool:
    """Whether there are gears for a layer: nn.Linear, or a convolution that has an int8 kernel, of finite weights."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and supports(layer))
    return known and unsound(layer) is None


def geared(
    layers: Iterable[Any],
    alone: bool = False,
    economical: bool = False,
    weight_only: bool = False,
    kind: type[Geared] = Geared,
) -> list[Geared]:
    """A gear for each layer, not standing yet; turns are spread so that any share of layers is spread too."""
    turns = ((layer, (GOLDEN * (n + 1)) % 1.0) for n, layer in enumerate(layers))
    return [kind(layer, turn, alone, economical, weight_only) for layer, turn in turns]


def high_gear(module: nn.Module) -> Precision:
    """The precision of a module's own weights."""
    return Precision.parse(next(p for p in module.parameters() if p.is_floating_point()).dtype)
