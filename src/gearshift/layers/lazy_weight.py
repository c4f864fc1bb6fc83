"""A float tensor that is only computed when something is done with it; what is written to it reaches its layer."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_iter, tree_map

from gearshift.core.errors import BadValue


class Owner(Protocol):
    """What has a weight that it does not keep as floats.

    Attributes:
        writes: how often the weight was changed.
    """

    writes: int

    def read_weight(self) -> torch.Tensor:
        """The weight in floating point."""

    def write_weight(self, weight: torch.Tensor) -> bool:
        """Take over a weight; raises and changes nothing where that cannot be.

        Returns:
            Whether it was taken for one the owner had before, so that what it has now is the better copy.
        """


class Source:
    """The working copy of a weight that the tensors made from one reading of it share.

    There is one only from the first view or write on, so that a chain of in-place operations is rounded from its own
    result at each step and not from what the step before was rounded to.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner, self.seen, self.born = owner, -1, owner.writes
        self.copy: torch.Tensor | None = None
        self.kept: Any = None  # what the owner held when this was read, if it notes that

    def hold(self) -> torch.Tensor:
        """The working copy, as new as the weight."""
        if self.copy is None:
            with torch.inference_mode(False), torch.no_grad():
                self.copy = self.owner.read_weight().contiguous()  # as the lazy weight says of itself
        elif self.seen != self.owner.writes:
            self.copy.copy_(self.owner.read_weight())
        self.seen = self.owner.writes
        return self.copy

    def give(self, weight: torch.Tensor | None) -> None:
        """Write the working copy back, or another tensor in its place."""
        given = self.copy if weight is None else weight
        assert given is not None
        self.copy = None if weight is not None else self.copy
        try:
            known = self.owner.write_weight(given.detach())
        except Exception:
            self.copy = None
            raise
        self.seen = -1 if known else self.owner.writes


class LazyWeight(torch.Tensor):
    """The float weight of a layer that keeps it otherwise, free while only its dtype, shape or device are read.

    T5 and several diffusers models cast activations to `layer.weight.dtype` in every forward pass: that has to be a
    floating dtype, or the activations would be cast to integers, and reading it must not dequantize. Reading operations
    dequantize anew. Whatever is written, in place, through views or by `.data`, goes to the layer, which rounds it.
    """

    derived = True  # from what its layer holds: nothing that a file has to keep
    source: Source
    part: torch.Tensor | None

    @staticmethod
    def __new__(
        cls,
        source: Source | Owner,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        part: torch.Tensor | None = None,
    ) -> LazyWeight:
        layout: dict[str, Any] = {}
        if part is not None:
            layout = {"strides": part.stride(), "storage_offset": part.storage_offset()}
        weight = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device, **layout)
        weight.source = source if isinstance(source, Source) else Source(source)
        weight.part = part
        weight.fixed = weakref.ref(weight)  # what is referred to weakly, torch.utils.swap_tensors refuses to take apart
        return weight

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:
            return args[0].alias()
        written = _places(func, args, kwargs, writes=True)
        viewed = [] if written else _places(func, args, kwargs, writes=False)
        for lazy in (*written, *viewed):
            lazy.source.hold()
        reals = {id(lazy.real()): lazy for lazy in written}
        result = func(*tree_map(real, args), **tree_map(real, kwargs))
        for lazy in written:
            lazy.source.give(None)
        if viewed:
            return tree_map(viewed[0].wrap, result)
        return tree_map(lambda leaf: reals.get(id(leaf), leaf), result) if written else result

    def real(self) -> torch.Tensor:
        """The floats: computed now, or the working copy where there is one."""
        if self.source.copy is None:
            return self.source.owner.read_weight()
        whole = self.source.hold()
        return whole if self.part is None else self.part

    def alias(self) -> LazyWeight:
        """The same place once more."""
        return LazyWeight(self.source, self.shape, self.dtype, self.device, self.part)

    def wrap(self, part: Any) -> Any:
        """A view of the working copy as a place to write to."""
        if not isinstance(part, torch.Tensor):
            return part
        return LazyWeight(self.source, part.shape, part.dtype, part.device, part)

    @property
    def data(self) -> LazyWeight:
        """The same place; a tensor that is assigned to it is written to the layer."""
        return self.alias()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if isinstance(value, LazyWeight) and value.source is self.source:
            return  # what `weight.data += x` ends with
        if value.shape != self.shape:
            raise BadValue(f"A weight of shape {tuple(self.shape)} was given one of {tuple(value.shape)}.")
        if self.part is None:
            self.source.give(real(value))
        else:
            self.copy_(value)

    @property
    def requires_grad(self) -> bool:
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> LazyWeight:
        if requires_grad:
            raise BadValue(
                "The weight of a layer that keeps it in another form cannot be trained. "
                "Train an adapter beside it, or the float model."
            )
        return self

    def data_ptr(self) -> int:
        return (self.source.hold() if self.part is None else self.part).data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.source.hold().untyped_storage()

    def numpy(self, *, force: bool = False) -> Any:
        array = self.real().numpy(force=force)
        array.flags.writeable = False  # what is written to an array reaches nobody
        return array

    def tolist(self) -> Any:
        return self.real().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.real().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.real().clone().__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"LazyWeight(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"


def real(leaf: Any) -> Any:
    """The floats of a lazy weight; anything else as it is."""
    return leaf.real() if isinstance(leaf, LazyWeight) else leaf


def _places(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], writes: bool) -> list[LazyWeight]:
    """The lazy weights among arguments that an operator writes to, or that its answer is a view of."""
    found: list[LazyWeight] = []
    for n, declared in enumerate(func._schema.arguments):
        given = args[n] if n < len(args) else kwargs.get(declared.name)
        if declared.alias_info is not None and declared.alias_info.is_write is writes:
            found += [leaf for leaf in tree_iter(given) if isinstance(leaf, LazyWeight)]
    return found
