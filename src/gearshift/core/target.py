"""Which modules an algorithm works on, and putting another module in a module's place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from gearshift.core.adapters import base_name, base_of, beneath
from gearshift.core.change import Change

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def select(
    root: Module, types: tuple[type, ...], include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> Iterator:
    """Yield (path, module) of the modules of exactly these types whose path fits the globs.

    A glob without a dot is also tried on each single part of the path: 'norm*' leaves out 'blocks.3.norm1.linear'.
    One that begins with a dot is only tried on the whole of it: '.proj_out' does not fit 'blocks.3.proj_out'.
    Where adapters stand on a layer, it is the layer beneath them, under the path that it has without them.
    """
    for path, module in beneath(root):
        if type(module) in types and matches(path, include) and not matches(path, exclude):
            yield path, module


def matches(path: str, globs: Sequence[str]) -> bool:
    """Whether a module path fits one of the globs."""
    return any(
        fnmatchcase(f".{path}", g)
        if g.startswith(".")
        else fnmatchcase(path, g) or ("." not in g and any(fnmatchcase(p, g) for p in path.split(".")))
        for g in globs
    )


def put(root: Module, path: str, module: Module | None) -> None:
    """Set the submodule at a dotted path; adapters that stand there stand on it then."""
    *parents, name = path.split(".")
    holder: Any = root
    for parent in parents:
        holder = base_of(getattr(holder, parent))
    while inner := base_name(holder._modules.get(name)):
        holder, name = holder._modules[name], inner
    if name in holder._modules:
        holder._modules[name] = module
    else:
        setattr(holder, name, module)


@dataclass
class Swap(Change):
    """One module in another's place. Without `old` it stays: the original's weights are gone."""

    root: Module
    path: str
    new: Module
    old: Module | None
    by: str

    def apply(self) -> None:
        put(self.root, self.path, self.new)

    def revert(self) -> None:
        put(self.root, self.path, self.old)

    def irreversible_reason(self) -> str | None:
        if self.old is not None:
            return None
        return (
            f"{self.by} replaced weights and the originals were not kept; "
            "optimize with keep_original=True to be able to restore them."
        )


@dataclass(eq=False)
class Written(Change):
    """Parameters that hold other values than before; the others are held by reference and change places with them.

    Attributes:
        by: the algorithm's name.
        keep: whether the values of before are kept.
        did: what was done to them, for the sentence that says why they cannot be brought back.
        held: the values that are not in the parameters now.
    """

    by: str
    keep: bool
    did: str = "wrote to weights"
    held: dict[Tensor, Tensor] = field(default_factory=dict)
    on: bool = True
    used: bool = False

    def put(self, parameter: Tensor, value: Tensor | None = None) -> None:
        """Give a parameter another value, in its own type; None: the same in other storage, to be written in place."""
        own = parameter.data
        parameter.data = own.clone() if value is None else value.detach().to(own.dtype)
        self.took(parameter, own)

    def took(self, parameter: Tensor, before: Tensor) -> None:
        """Take in a parameter that was given another value already, and the tensor that it held before."""
        self.used = True
        if self.keep:
            self.held.setdefault(parameter, before)

    def apply(self) -> None:
        if not self.on:
            self._change_places()

    def revert(self) -> None:
        if self.on:
            self._change_places()

    def irreversible_reason(self) -> str | None:
        if self.keep or not self.used:
            return None
        return f"{self.by} {self.did} and the originals were not kept; keep_original=True would have kept them."

    def _change_places(self) -> None:
        for parameter, value in self.held.items():
            self.held[parameter] = parameter.data
            parameter.data = value.to(parameter.device)
        self.on = not self.on


@dataclass
class Replaced(Change):
    """The whole model gave way to another object: nothing is there to be taken off."""

    by: str

    def irreversible_reason(self) -> str:
        return f"{self.by} replaced the model by another object; load the original model again to have it back."


@dataclass
class Baked(Change):
    """What was done before the model was saved is in its saved weights: nothing is there to be taken off."""

    by: str

    def irreversible_reason(self) -> str:
        return (
            f"{self.by} was applied before the model was saved, and its folder holds no originals; load the original "
            "model again to have them back."
        )
