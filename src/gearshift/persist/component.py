"""One torch module of a model in its folder: its configuration, its weights bit for bit, and the adapters on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import RLock, get_ident
from typing import Any

from gearshift.core.errors import BrokenFolder, GearshiftError, told
from gearshift.core.tensors import read_tensors, write_tensors
from gearshift.persist.classes import LOCAL
from gearshift.persist.exact import facts_of, read_exact, write_exact

WEIGHTS = "gearshift.safetensors"
TRUSTING_NOTHING = {"use_safetensors": True, "local_files_only": True}
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
    facts = facts_of(module, noun)
    if changed:
        _write_config(module, folder)
        write_tensors(module.state_dict(), folder / WEIGHTS)
    else:
        module.save_pretrained(str(folder), safe_serialization=True)
    if _quantized_elsewhere(module):
        return facts
    try:
        made = skeleton(type(module), folder)
    except Exception as error:
        raise GearshiftError(
            f"{noun} cannot be saved: its configuration does not make it again: {told(error)}"
        ) from error
    if not changed:
        _refuse_other_shapes(noun, module.state_dict(), made.state_dict())
    write_exact(module, made, facts["dtype"], changed, folder)
    return facts


def read_module(cls: Any, folder: Path, facts: dict[str, Any] | None, dtype: str | None) -> Any:
    """A module whose layers are those that its configuration makes, with its weights.

    Args:
        facts: what `write_module` gave; None: a folder that does not say.
        dtype: of its floats, where that is all that is known.
    """
    import torch

    library = _library(cls)
    wanted = dtype if facts is None else facts["dtype"]
    given = {} if wanted is None else {_dtype_keyword(library): getattr(torch, wanted)}
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # in place of a library's own report
    code = {"trust_remote_code": False} if library == "transformers" else {}
    module, found = cls.from_pretrained(folder, **given, **TRUSTING_NOTHING, **code, **told)
    absent = [*found["missing_keys"], *(m[0] if isinstance(m, tuple) else m for m in found.get("mismatched_keys", []))]
    if absent:
        raise BrokenFolder(f"{folder} lacks {absent[0]}, or has it in another shape.")
    if facts is not None and found["unexpected_keys"]:
        raise BrokenFolder(f"{folder} has {next(iter(found['unexpected_keys']))}, which is no tensor of the model.")
    if facts is not None and not _quantized_elsewhere(module):
        read_exact(module, skeleton(cls, folder), wanted, False, folder)
    return module


def read_other(cls: Any, folder: Path) -> Any:
    """A scheduler, tokenizer, processor or the like."""
    return cls.from_pretrained(folder, **(LOCAL if _library(cls) == "transformers" else {"local_files_only": True}))


def _library(cls: Any) -> str:
    return str(cls.__module__.partition(".")[0])


def skeleton(cls: Any, folder: Path) -> Any:
    """A module made from its configuration, its parameters without storage and its buffers as they are made."""
    import torch

    with torch.random.fork_rng(devices=[]), _parameters_without_storage():
        if hasattr(cls, "from_config"):
            return cls.from_config(cls.load_config(folder, local_files_only=True)).eval()
        made = cls(cls.config_class.from_pretrained(folder, local_files_only=True)).eval()
    if (folder / "generation_config.json").is_file():
        made.generation_config = type(made.generation_config).from_pretrained(folder, local_files_only=True)
    return made


@contextmanager
def _parameters_without_storage() -> Iterator[None]:
    """Parameters that this thread registers in modules go to the meta device; other threads notice nothing."""
    from torch import nn

    with _MAKING:
        before, mine = nn.Module.register_parameter, get_ident()

        def register(module: Any, name: str, parameter: Any) -> None:
            before(module, name, parameter)
            if parameter is not None and get_ident() == mine:
                empty = parameter.to("meta")
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)

        nn.Module.register_parameter = register
        try:
            yield
        finally:
            mine = 0
            if nn.Module.register_parameter is register:  # else another library's loading put its own there meanwhile
                nn.Module.register_parameter = before


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


def _write_config(module: Any, folder: Path) -> None:
    if hasattr(module, "save_config"):
        module.save_config(str(folder))
        return
    module.config.save_pretrained(str(folder))
    if getattr(module, "generation_config", None) is not None:
        module.generation_config.save_pretrained(str(folder))


def _refuse_other_shapes(noun: str, state: dict[str, Any], made: dict[str, Any]) -> None:
    """Raise GearshiftError if a configuration makes another module than the one that is saved with it."""
    for name in (*state, *made):
        its, others = (tuple(s[name].shape) if name in s else None for s in (state, made))
        if its != others:
            raise GearshiftError(
                f"{noun} cannot be saved: its configuration makes a model in which {name} is "
                f"{'not there' if others is None else others}; here it is {'not there' if its is None else its}."
            )


def _quantized_elsewhere(module: Any) -> bool:
    """Whether a library quantized it while loading it, and does so again."""
    config = getattr(module, "config", None)
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return (found or getattr(config, "quantization_config", None)) is not None


def _dtype_keyword(library: str) -> str:
    """How `from_pretrained` is told the number format; diffusers renamed it in 0.42."""
    release = tuple(int(n) for n in re.findall(r"\d+", version(library))[:2])
    return "torch_dtype" if library == "diffusers" and release < (0, 42) else "dtype"
