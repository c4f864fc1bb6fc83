"""What a library's own files do not keep of a module: types of single tensors, buffers outside of the state dict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit, reading
from gearshift.core.errors import BrokenFolder, GearshiftError
from gearshift.core.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

EXACT = "gearshift_exact.safetensors"


def tensors_of(module: Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those outside of the state dict included; shared ones once."""
    return dict(chain(module.named_parameters(), module.named_buffers()))


def facts_of(module: Module, noun: str) -> dict[str, Any]:
    """The type that most of a module's floats have, tensors that are not finite, and unusual strides.

    Raises:
        GearshiftError: if values are elsewhere, as with offloading to a disk.
    """
    found, sizes, odd, strides = tensors_of(module), Counter[str](), [], {}
    for name, tensor in found.items():
        if tensor.is_meta:
            raise GearshiftError(
                f"{noun} cannot be saved: {name} has no values here, as with weights that are offloaded; "
                "remove the offloading first."
            )
        if tensor.is_floating_point() and tensor.element_size() > 1:  # no library loads a model in 8-bit floats
            sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        if not is_finite(tensor):
            odd.append(name)
        usual = tensor.new_empty(tensor.shape, device="meta").stride()
        if tensor.stride() != usual and _is_dense(tensor.shape, tensor.stride()):
            strides[name] = list(tensor.stride())
    most = sizes.most_common(1)
    return {"dtype": most[0][0] if most else None, "not_finite": odd, "strides": strides}


def own(module: Module, strides: dict[str, list[int]]) -> None:
    """Copy tensors out of the mapped file, with the strides that they had: memory's layout can decide last bits.

    Raises:
        Misfit: for strides that no tensor of the shape has.
    """
    import torch

    for name, tensor in tensors_of(module).items():
        its = strides.get(name)
        if its is not None:
            if len(its) != tensor.ndim or not _is_dense(tensor.shape, its):
                raise Misfit(f"{name} cannot have the strides {its}")
            tensor.data = torch.empty_strided(tensor.shape, its, dtype=tensor.dtype).copy_(tensor.data)
        elif tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor with such strides has one place in memory for each value, and no other places."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def write_exact(module: Module, made: Module, dtype: str | None, state: bool, folder: Path) -> None:
    """Write what a module that is made again would not have: other types, other buffers.

    Args:
        made: what the module's configuration makes, parameters without storage.
        state: whether the state dict is kept bit for bit anyway.
    """
    import torch

    persistent, fresh, other = module.state_dict().keys(), dict(made.named_buffers()), {}
    left_out = () if state else getattr(module, "_keys_to_ignore_on_save", None) or ()
    for name, tensor in tensors_of(module).items():
        its = fresh.get(name)
        if name in persistent:
            odd = not state and tensor.is_floating_point() and tensor.dtype != _dtype(dtype)
        else:
            odd = its is not None and not (its.dtype == tensor.dtype and torch.equal(its, tensor.cpu()))
        if odd or name in left_out:
            other[name] = tensor
    if other:
        write_tensors(other, folder / EXACT)


def read_exact(module: Module, made: Module, dtype: str | None, state: bool, folder: Path) -> None:
    """Give a module that was loaded the types and buffers that it had; `made` and `state` as in `write_exact`."""
    other = read_tensors(folder / EXACT) if (folder / EXACT).is_file() else {}
    persistent, fresh = module.state_dict().keys(), dict(made.named_buffers())
    with reading(folder / EXACT, "tensors of the model"):
        for name, tensor in tensors_of(module).items():
            if name in other:
                tensor.data = _fitting(other.pop(name), tensor, name)
            elif name not in persistent and name in fresh and made is not module:
                tensor.data = _fitting(fresh[name], tensor, name)
            elif name in persistent and not state and tensor.is_floating_point() and tensor.dtype != _dtype(dtype):
                tensor.data = tensor.data.to(_dtype(dtype))
        if other:
            raise Misfit(f"{next(iter(other))} is no tensor of it")


def refuse_incomplete(module: Module, facts: dict[str, Any] | None, folder: Path) -> None:
    """Raise BrokenFolder unless every tensor of a loaded module has values, finite where they were when it was saved.

    Args:
        facts: what `facts_of` gave; None: of a folder that does not say.
    """
    for name, tensor in tensors_of(module).items():
        if tensor.is_meta:
            raise BrokenFolder(f"{folder} lacks {name}.")
        if facts is not None and name not in facts["not_finite"] and not is_finite(tensor):
            raise BrokenFolder(f"{folder} has values in {name} that are not finite; they were when it was saved.")


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite: one pass over them, a second one where their sum is not."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    given = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
    whole = given.sum(dtype=torch.float32 if given.element_size() == 2 else None)
    return bool(torch.isfinite(whole)) or bool(torch.isfinite(given).all())


def _fitting(given: Tensor, tensor: Tensor, name: str) -> Tensor:
    if given.shape != tensor.shape:
        raise Misfit(f"{name} has the shape {tuple(given.shape)}, not {tuple(tensor.shape)}")
    return given.clone()


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else getattr(torch, name)
