"""What all layers share that keep a weight in few bits and show it as floats."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from gearshift.core.errors import BadValue, GearshiftWarning
from gearshift.layers.lazy_weight import LazyWeight, Source, real

SLACK = 1.5  # times the squared error of rounding that a weight which was put back may be off
BURST = 1.0  # seconds between writes that are told apart
MOST = 4.0  # times the error of one rounding that counts as the errors of many


_newest = -BURST


class Origin(NamedTuple):
    """A weight as it was before it was first written to, so that undoing what was written brings it back bit for bit.

    Attributes:
        buffers: the layer's buffers then.
        drift: squared error that the roundings since then have added up to.
        largest: the largest squared error among them.
    """

    buffers: dict[str, torch.Tensor | None]
    drift: float
    largest: float


class QuantizedLayer(nn.Module):
    """A layer whose weight is held in buffers of any format; a subclass has `dequantized` and `quantize`.

    `weight` is a float tensor of `dtype` all the same, computed when it is used (see LazyWeight): models read
    `layer.weight.dtype` to cast activations, adapters its shape. What is written to it, in whichever way, is rounded to
    the layer's own format; a state dict of the float layer can be loaded. The state dict lists `weight` beside the
    buffers for those who look for its shape, and does without it when it is loaded.

    Attributes:
        dtype: of the float layer that this one replaces, and of `weight`.
        bias: [out] or None; trainable if asked to be.
        writes: how often the weight was written to.
        replaced: what `writes` was when another weight was last set in this one's place.
    """

    dtype: torch.dtype
    writes = 0
    replaced = 0
    origin: Origin | None = None

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight that the buffers stand for, output channels first."""
        raise NotImplementedError

    def quantize(self, weight: torch.Tensor) -> None:
        """Set the buffers to a float weight, output channels first, rounded as this layer's was."""
        raise NotImplementedError

    def weight_shape(self) -> tuple[int, ...]:
        """The weight's shape, output channels first."""
        raise NotImplementedError

    def activations(self) -> str | None:
        """How products round activations too, where this layer is; None if they take them as they come."""
        return None

    def take(self, layer: Any) -> None:
        """Take over a float layer's bias, mode and whatever else is not the weight."""
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
        self.train(layer.training)

    @property
    def weight(self) -> torch.Tensor:
        """The float weight that the buffers stand for."""
        if torch.compiler.is_compiling():
            return self.read_weight()
        place = next(b.device for b in self._buffers.values() if b is not None)
        lazy = LazyWeight(self, torch.Size(self.weight_shape()), self.dtype, place)
        lazy.source.kept = dict(self._buffers)
        return lazy

    def read_weight(self) -> torch.Tensor:
        return self.dequantized(self.dtype)

    @torch.inference_mode(False)
    @torch.no_grad()
    def write_weight(self, weight: torch.Tensor) -> bool:
        """Round another weight to this layer's format; the one that the layer has already changes nothing.

        A weight as it was before the first write, but for what rounding has added since, brings back the very bits that
        the layer had then, and is answered with True.

        Raises:
            BadValue: for a weight of another shape or one that is not finite; nothing is changed.
        """
        before = dict(self._buffers)
        given = weight.clone() if weight.is_inference() else real(weight)
        given = given.to(next(b.device for b in before.values() if b is not None), self.dtype)
        checked(given, self.weight_shape())
        if torch.equal(given, self.read_weight()):
            return False
        self.writes += 1
        origin = self.origin or Origin(before, 0.0, 0.0)
        if self._is_back(given, origin):
            self._put(origin.buffers)
            self.origin = None
            return True
        try:
            self.quantize(given)
            error = _squared(given, self.read_weight())
        except BaseException:
            self._put(before)
            raise
        self.origin = Origin(origin.buffers, origin.drift + error, max(origin.largest, error))
        _tell()
        return False

    def _is_back(self, weight: torch.Tensor, origin: Origin) -> bool:
        now = dict(self._buffers)
        self._put(origin.buffers)
        first = self.read_weight().to(weight.device)
        self._put(now)
        roundings = SLACK * min(origin.drift, MOST * origin.largest)
        exact = float(first.float().square().sum()) * torch.finfo(self.dtype).eps ** 2
        return _squared(weight, first) <= roundings + exact

    def _put_back(self, source: Source) -> None:
        """Take a weight of this layer again that another was set in place of, as torch.func.functional_call does."""
        if source.born < self.replaced:
            self._put(source.kept)
            self.origin, self.writes = None, self.writes + 1

    def _put(self, buffers: dict[str, torch.Tensor | None]) -> None:
        """Put buffers back; one may have been made on another device."""
        place = next(b.device for b in self._buffers.values() if b is not None)
        self._buffers.update({name: None if b is None else b.to(place) for name, b in buffers.items()})

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "weight":
            super().__setattr__(name, value)
        elif isinstance(value, LazyWeight) and value.source.owner is self:
            self._put_back(value.source)
        elif isinstance(value, torch.Tensor):
            self.weight.data = value
            self.replaced = self.writes
        else:
            raise TypeError(f"The weight of a layer is a tensor. Got {type(value).__name__} instead.")

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        for name, before in exact.items():  # .half() is for floats that are computed with, not for what is stored
            now = self._buffers[name]
            if before is not None and now is not None and now.dtype != before.dtype:
                self._buffers[name] = before.to(now.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, meta: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        given = dict(state_dict)
        weight = given.pop(f"{prefix}weight", None)
        own = {f"{prefix}{name}" for name, held in self._buffers.items() if held is not None}
        own -= {f"{prefix}{name}" for name in self._non_persistent_buffers_set}
        super()._load_from_state_dict(given, prefix, meta, strict, missing, *rest)
        if own & given.keys():
            self.origin, self.writes = None, self.writes + 1
        elif weight is not None:
            missing[:] = [name for name in missing if name not in own]
            try:
                self.write_weight(weight)
            except BadValue as error:
                rest[-1].append(f"{prefix}weight: {error}")


def checked(weight: torch.Tensor, shape: tuple[int, ...]) -> None:
    """See that a weight can be rounded.

    Raises:
        BadValue: if its shape is another, or it is not finite.
    """
    if tuple(weight.shape) != tuple(shape):
        raise BadValue(f"A weight of shape {tuple(shape)} was given one of {tuple(weight.shape)}.")
    if not weight.is_floating_point():
        raise BadValue(f"The weight of a layer is floating point. Got {weight.dtype} instead.")
    if not bool(weight.isfinite().all()):
        raise BadValue("A weight with infinities or NaN cannot be rounded to few bits; the layer keeps what it had.")


def _tell() -> None:
    """Warn once of writes that come one after the other, as those of merging an adapter do."""
    global _newest
    before, _newest = _newest, time.monotonic()
    if _newest - before >= BURST:
        warnings.warn(
            "Weights of quantized layers were written to; they were rounded again to the layers' own format.",
            GearshiftWarning,
            stacklevel=3,
        )


def _squared(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).square().sum())
