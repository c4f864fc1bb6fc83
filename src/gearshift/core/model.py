"""A model, seen without knowing any library: a torch module, or a pipeline that holds some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearshift.core.errors import GearshiftError, WrongModel
from gearshift.core.facts import Kind, Trait

if TYPE_CHECKING:
    from torch.nn import Module

ANSWERS = ("generate", "transcribe", "__call__")  # by what a runtime can be called


class NotOfARuntime(GearshiftError, AttributeError):
    """An attribute that only a model of torch has."""

    def __init__(self, runtime: str, name: str, answers: list[str]) -> None:
        called = " and ".join(f"`{n}`" for n in answers) or "its own methods"
        super().__init__(
            f"A {runtime} has no {name!r}: another engine runs it, so that what takes torch models apart, such as "
            f"transformers.pipeline, cannot use it; call {called} of it."
        )


class Runtime:
    """A model that an engine outside of torch runs, or one behind another kind of call; it replaces a torch model.

    Subclasses are exported by the package itself, so that a saved folder can name them.

    Attributes:
        kind: what it is a model of.
        traits: what algorithms that come later find in it.
        components: the torch modules it still holds, by name.
    """

    kind: Kind
    traits: frozenset[Trait] = frozenset()
    components: dict[str, Module]

    def __getattr__(self, name: str) -> Any:
        """What a model of torch has and this one has not.

        Raises:
            NotOfARuntime: with what it can be called by instead.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        answers = [n for n in ANSWERS if any(n in vars(cls) for cls in type(self).__mro__)]
        raise NotOfARuntime(type(self).__name__, name, answers)

    def save_pretrained(self, folder: Path) -> None:
        """Write into a folder everything that `from_pretrained` needs."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, folder: Path) -> Any:
        """The same again, in another process."""
        raise NotImplementedError

    def to(self, device: str) -> Any:
        """The same on another device; a runtime that knows one device only refuses others."""
        raise NotImplementedError

    def size_bytes(self) -> int:
        """Bytes of the weights that no torch module holds."""
        return 0


def parts(model: Any) -> dict[str, Module]:
    """The torch modules of a pipeline by component name; a module is its own only part, under ''."""
    import torch

    if isinstance(model, torch.nn.Module):
        return {"": model}
    components = getattr(model, "components", None)
    if isinstance(model, Runtime):
        return dict(model.components)
    if isinstance(components, dict):
        found = {n: c for n, c in components.items() if isinstance(c, torch.nn.Module)}
        if found:
            return found
    raise WrongModel(
        f"gearshift works on diffusers pipelines and torch modules (transformers models among them). "
        f"Got {type(model).__name__!r} instead."
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and running averages for the length of a block; each module's mode as it was afterwards."""
    modes = {module: module.training for part in parts(model).values() for module in part.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def size_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers, shared storage counted once."""
    seen: dict[int, int] = {}
    for part in parts(model).values():
        for tensor in (*part.parameters(), *part.buffers()):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr() or id(storage)] = storage.nbytes()
    return sum(seen.values()) + (model.size_bytes() if isinstance(model, Runtime) else 0)
