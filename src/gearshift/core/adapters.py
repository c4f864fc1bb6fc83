"""Adapters (peft's layers) on a model: a layer on top, taken off while what it stands on is worked on or written.

A saved folder has them beside the base: their configurations and settings in adapters.json, their tensors in
adapters.safetensors, both in the folder of the part that they stand on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from gearshift.core.errors import GearshiftError
from gearshift.core.facts import Persist, Trait
from gearshift.core.model import parts

if TYPE_CHECKING:
    from torch.nn import Module

FLAG, CONFIGS = "_hf_peft_config_loaded", "peft_config"


def base_name(module: Module | None) -> str | None:
    """The attribute under which an adapter's layer holds what it stands on; None for any other module."""
    if module is None or not hasattr(type(module), "adapter_layer_names"):
        return None
    return next((n for n in ("base_layer", "original_module") if n in module._modules), None)


def base_of(module: Any) -> Any:
    """A module without the adapters on it."""
    name = base_name(module)
    return module if name is None else base_of(module._modules[name])


def adapters_on(root: Module) -> dict[str, Any]:
    """The adapters' outermost layers in a module, by path."""
    found: dict[str, Any] = {}
    for path, module in root.named_modules():
        if base_name(module) is not None and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def beneath(root: Module) -> Iterator[tuple[str, Any]]:
    """(path, module) of all modules as if there were no adapters: their own layers are left out."""
    outer = adapters_on(root)
    for path, module in root.named_modules():
        above = next((p for p in outer if path == p or path.startswith(f"{p}.")), None)
        if above is None:
            yield path, module
    for path, layer in outer.items():
        for inner, module in base_of(layer).named_modules():
            yield f"{path}.{inner}" if inner else path, module


def aside_for(algorithm: Any, model: Any) -> AbstractContextManager[None]:
    """What changes weights works on the base, whenever the adapters came; what runs a model sees it with them."""
    facts = type(algorithm).facts
    base_only = facts.persist is Persist.WEIGHTS and Trait.TORCH_FORWARD not in facts.removes
    return aside(parts(model)) if base_only else nullcontext()


@contextmanager
def aside(modules: dict[str, Module]) -> Iterator[None]:
    """Modules, by the names of the parts that they are, without their adapters for the length of a block.

    Raises:
        GearshiftError: if the block changed the sizes of what they stand on.
    """
    with ExitStack() as stack:
        for root in modules.values():
            stack.enter_context(_aside(root))
        yield


@contextmanager
def _aside(root: Module) -> Iterator[None]:
    layers = adapters_on(root)
    if not layers:
        yield
        return
    held = {name: vars(root).pop(name) for name in (FLAG, CONFIGS) if name in vars(root)}
    sizes = {path: _sizes(base_of(layer)) for path, layer in layers.items()}
    for path, layer in layers.items():
        _set(root, path, layer._modules[base_name(layer)])
    try:
        yield
    finally:
        bases = {path: root.get_submodule(path) for path in layers}
        for path, layer in layers.items():
            layer._modules[base_name(layer)] = bases[path]
            _set(root, path, layer)
        vars(root).update(held)
    grown = [path for path in layers if _sizes(bases[path]) != sizes[path]]
    if grown:
        raise GearshiftError(
            f"The layer {grown[0]} has another size now, which the adapter on it does not fit; first merge the "
            "adapters into the weights, or remove them."
        )


def _sizes(layer: Any) -> tuple[Any, ...]:
    names = ("in_features", "out_features", "in_channels", "out_channels", "num_embeddings", "embedding_dim", "nf")
    return tuple(getattr(layer, name, None) for name in names)


def _set(root: Module, path: str, module: Module) -> None:
    """Another module at a path, whatever is there now."""
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent)._modules[name] = module
