"""What all layers share that keep a weight in few bits and show it as floats, and the linear ones among them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from gearshift.core.errors import BadValue, GearshiftWarning
from gearshift.layers.lazy_weight import LazyWeight, Source, real

SLACK = 1.5  # times the squared error of rounding that a weight which was put back may be off
BURST = 1.0  # seconds between writes that are told apart
MOST = 4.0  # times the error of one rounding that counts as the errors of many

_newest = -BURST
Layer = TypeVar("Layer", bound="QuantizedLayer")


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

    It is made from sizes, as `sizes_of` answers them, bias, device and dtype, and what `format` answers.

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

    def __init__(self, channels: int, bias: bool, device: Any = None, dtype: torch.dtype | None = None) -> None:
        nn.Module.__init__(self)  # not nn.Linear's or nn.Conv2d's, which would make a float weight
        self.dtype = dtype or torch.get_default_dtype()
        empty = nn.Parameter(torch.zeros(channels, dtype=self.dtype, device=device), requires_grad=False)
        self.register_parameter("bias", empty if bias else None)

    @classmethod
    def from_float(cls: type[Layer], layer: Any, *values: Any, **format: Any) -> Layer:
        """Quantize a float layer, which stays as it was, to a format, given as `empty_like` takes it."""
        made = cls.empty_like(layer, *values, **format)
        made.quantize(layer.weight.detach())
        made.take(layer)
        return made

    @classmethod
    def empty_like(cls: type[Layer], layer: Any, *values: Any, **format: Any) -> Layer:
        """The layer of a float layer's sizes and type, without storage, for a state dict to be assigned to."""
        sizes = *cls.sizes_of(layer), layer.bias is not None, "meta", layer.weight.dtype
        return cls(*sizes, *values, **format).eval()

    @staticmethod
    def sizes_of(layer: Any) -> tuple[Any, ...]:
        """A float layer's sizes, as the class takes them."""
        return layer.in_features, layer.out_features

    def format(self) -> dict[str, Any]:
        """What `empty_like` takes besides the float layer."""
        return {}

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


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer whose weight is held in buffers; a subclass registers them and has `product`.

    An nn.Linear, so that adapters (peft) attach; any floating input dtype and any leading dimensions; the gradient of
    the input is grad @ weight.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(out_features, bias, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """rows @ weight.T for rows [n >= 1, in] of this layer's dtype or any other, answered in theirs."""
        raise NotImplementedError

    def weight_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features)
        if not torch.jit.is_tracing() and not rows.shape[0]:
            y = rows @ self.dequantized(rows.dtype).t()
        elif torch.is_grad_enabled() and rows.requires_grad:
            y = _Product.apply(rows, self)
        else:
            y = self.product(rows)
        y = y.reshape(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """A layer's product, with the gradient of the float weight that it stands for."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: QuantizedLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad @ ctx.layer.dequantized(grad.dtype), None


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
