"""What can be told of a denoiser from its structure, without a row in the table and without running it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from gearshift.models.denoiser import Attention, Denoiser, Kind

if TYPE_CHECKING:
    from torch import nn

TIMESTEPS = ("timestep", "timesteps", "t", "timestep_ratio")
UNET_BLOCKS = tuple(f"{part}.attentions.*.transformer_blocks" for part in ("down_blocks.*", "mid_block", "up_blocks.*"))


def probe(module: nn.Module) -> Denoiser:
    """Deduce a row from a module's structure: a guess, made without running it.

    Blocks are the lists of two or more modules of one class that hold at least an eighth of the largest's parameters;
    the timestep is found by its argument's name and taken to be the scheduler's own.
    """
    arguments = list(inspect.signature(type(module).forward).parameters)[1:]
    unet = _is_unet(module)
    blocks = block_lists(module, UNET_BLOCKS) if unet else _largest_lists(module)
    return Denoiser(
        blocks=blocks,
        attention=_attention(module),
        guidance="none",
        sample=arguments[0] if arguments else "sample",
        timestep=timestep_name(module),
        text="encoder_hidden_states" if "encoder_hidden_states" in arguments else None,
        output=0.0,
        keep=_outside(module, blocks),
        unet=unet,
    )


def _is_unet(module: Any) -> bool:
    """Whether down and up blocks are modules that are called, and no lists of what is called."""
    blocks = [*getattr(module, "down_blocks", ()), *getattr(module, "up_blocks", ())]
    return bool(blocks) and not any(type(block).__name__ == "ModuleList" for block in blocks)


def timestep_name(module: nn.Module) -> str | None:
    """The name of forward's timestep argument."""
    arguments = inspect.signature(type(module).forward).parameters
    return next((name for name in TIMESTEPS if name in arguments), None)


def _lists(module: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    """Module lists whose members are all of one class, and are called: lists in a list are not."""
    for name, part in module.named_modules():
        if type(part).__name__ == "ModuleList":
            members = list(part.children())
            if len({type(m) for m in members}) == 1 and type(members[0]).__name__ != "ModuleList":
                yield name, members


def block_lists(module: nn.Module, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of the module lists that match, in the patterns' order."""
    names = [name for name, _ in _lists(module)]
    return tuple(name for pattern in patterns for name in names if fnmatchcase(name, pattern))


def _largest_lists(module: nn.Module) -> tuple[str, ...]:
    sizes: dict[str, int] = {}
    for name, members in _lists(module):
        inside = any(name.startswith(f"{outer}.") for outer in sizes)
        if len(members) > 1 and not inside and "refiner" not in name and "embed" not in name:
            sizes[name] = sum(p.numel() for m in members for p in m.parameters())
    return tuple(name for name, size in sizes.items() if size and size >= max(sizes.values()) / 8)


def _attention(module: nn.Module) -> Attention:
    found: dict[Kind, list[str]] = {}
    for name, part in module.named_modules():
        if hasattr(part, "to_q") or (hasattr(part, "processor") and "Attention" in type(part).__name__):
            found.setdefault(_kind(name, part), []).append(name)
    return tuple((kind, tuple(names)) for kind, names in found.items())


def _kind(name: str, attention: Any) -> Kind:
    if any(word in name for word in ("temporal", "temp_", "motion")):
        return "temporal"
    if getattr(attention, "is_cross_attention", False) or name.endswith("attn2"):
        return "cross"
    return "joint" if getattr(attention, "add_k_proj", None) is not None else "self"


def _outside(module: nn.Module, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Globs for what lies beside the blocks, and for norms inside them."""
    roots = {path.split(".")[0] for path in blocks}
    beside = [name for name, _ in module.named_children() if name not in roots]
    return (*beside, *(f"{name}.*" for name in beside), "*.norm*")
