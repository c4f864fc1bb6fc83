"""One torch module of a model in its folder: its configuration, its weights bit for bit, and the adapters on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any

from gearshift.core.errors import BrokenFolder, GearshiftError, told
from gearshift.core.tensors import read_tensors, write_tensors
from gearshift.persist.exact import facts_of, read_exact, write_exact
from gearshift.persist.libraries import library_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

WEIGHTS = "gearshift.safetensors"
_MAKING = RLock()


def write_module(module: Any, folder: Path, changed: bool) -> dict[str, Any]:
    """Write a module, without adapters, into its folder; gives what its manifest says of it.

    Args:
        changed: its layers are not those that its configuration makes; its weights go into a file of our own.

    Raises:
        GearshiftError: if it could not be made again.
    """
    noun = type(module).__name__
    if not hasattr(module, "save_pretrained"):
        raise GearshiftError(
            f"{noun} has no save_pretrained, so a saved folder could not make it again; "
            "save its state dict yourself, and optimize it after loading."
        )
    library, facts = library_of(type(module)), facts_of(module, noun)
    if changed:
        library.write_config(module, folder)
        write_tensors(module.state_dict(), folder / WEIGHTS)
    else:
        module.save_pretrained(str(folder), safe_serialization=True)
    if library.quantizes(module):
        return facts
    try:
        made = from_config(type(module), folder)
    except Exception as error:
        raise GearshiftError(
            f"{noun} cannot be saved: its configuration does not make it again: {told(error)}"
        ) from error
    if not changed:
        _refuse_other_shapes(noun, module.state_dict(), made.state_dict())
    write_exact(module, made, facts["dtype"], changed, folder)
    return facts


def read_module(cls: Any, folder: Path, facts: dict[str, Any] | None, dtype: str | None) -> Module:
    """A module whose layers are those that its configuration makes, with its weights.

    Args:
        facts: what `write_module` gave; None: a folder that does not say.
        dtype: of its floats, where that is all that is known.
    """
    import torch

    library, wanted = library_of(cls), dtype if facts is None else facts["dtype"]
    module, found = library.read(cls, folder, None if wanted is None else getattr(torch, wanted))
    absent = [*found["missing_keys"], *(m[0] if isinstance(m, tuple) else m for m in found.get("mismatched_keys", []))]
    if absent:
        raise BrokenFolder(f"{folder} lacks {absent[0]}, or has it in another shape.")
    if facts is not None and found["unexpected_keys"]:
        raise BrokenFolder(f"{folder} has {next(iter(found['unexpected_keys']))}, which is no tensor of the model.")
    if facts is not None and not library.quantizes(module):
        read_exact(module, from_config(cls, folder), wanted, False, folder)
    return module


def from_config(cls: Any, folder: Path) -> Module:
    """A module made from its configuration, its parameters without storage and its buffers as they are made."""
    import torch

    with torch.random.fork_rng(devices=[]), _parameters_without_storage():
        return library_of(cls).make(cls, folder).eval()


@contextmanager
def _parameters_without_storage() -> Iterator[None]:
    """Parameters that this thread registers in modules go to the meta device; other threads notice nothing."""
    from torch import nn

    with _MAKING:
        modules: Any = nn.Module
        before, mine = modules.register_parameter, get_ident()

        def register(module: Any, name: str, parameter: Any) -> None:
            before(module, name, parameter)
            if parameter is not None and get_ident() == mine:
                empty = parameter.to("meta")
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)

        modules.register_parameter = register
        try:
            yield
        finally:
            mine = 0
            if modules.register_parameter is register:  # else another library's loading put its own there meanwhile
                modules.register_parameter = before


def fill(module: Any, folder: Path, facts: dict[str, Any] | None) -> None:
    """The weights of a module whose layers were made again already.

    Raises:
        BrokenFolder: if they do not fit it.
    """
    file = folder / WEIGHTS
    state = read_tensors(file)
    try:
        missing, extra = module.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise BrokenFolder(f"{file} does not fit the model: {told(error)}") from None
    if missing or extra:
        raise BrokenFolder(f"{file} does not fit the model: {len(missing)} tensors missing, {len(extra)} too many.")
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    if facts is not None:
        read_exact(module, module, facts["dtype"], True, folder)


def _refuse_other_shapes(noun: str, state: dict[str, Tensor], made: dict[str, Tensor]) -> None:
    """Raise GearshiftError if a configuration makes another module than the one that is saved with it."""
    for name in (*state, *made):
        its, others = (tuple(s[name].shape) if name in s else None for s in (state, made))
        if its != others:
            raise GearshiftError(
                f"{noun} cannot be saved: its configuration makes a model in which {name} is "
                f"{'not there' if others is None else others}; here it is {'not there' if its is None else its}."
            )
