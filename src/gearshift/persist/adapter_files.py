"""Writing the adapters (peft's layers) of a module beside its weights, and putting them on again as they were."""

from __future__ import annotations

import json
import re
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gearshift.core.adapters import CONFIGS, FLAG, _set, adapters_on, base_name, base_of
from gearshift.core.boundary import Misfit, reading
from gearshift.core.errors import GearshiftError, quoted, told
from gearshift.core.extras import need
from gearshift.core.plain import anything, dict_of, fields, flag, list_of, number, read_json, text
from gearshift.core.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

SETTINGS, TENSORS = "adapters.json", "adapters.safetensors"
NOT_KEPT = (  # what acts on more than the layers that an adapter stands on
    "arrow_config", "layer_replication", "megatron_config", "modules_to_save", "target_parameters",
    "trainable_token_indices",
)  # fmt: skip
ONLY_WHEN_MADE = (  # what an adapter's first values come from, and what names code
    "auto_mapping", "corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "runtime_config",
)  # fmt: skip
Kept: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor]]"  # settings and tensors
NAME = text(r"[^.\0/\\]+", "the name of an adapter", most=1000)
NUMBERS = dict_of(dict_of(lambda v, p: v if isinstance(v, bool) else number()(v, p), key=NAME), most=100)
LAYER = fields({"active": list_of(NAME), "merged": list_of(NAME), "disabled": flag, "numbers": NUMBERS})
SHAPE = fields(
    {
        "configs": dict_of(dict_of(anything, most=200), key=NAME, most=10_000),
        "layers": dict_of(LAYER),
        "trained": list_of(text()),
    }
)


def keep_adapters(root: Module, noun: str) -> Kept | None:
    """What is to be written of a module's adapters; None if there are none.

    Raises:
        GearshiftError: for adapters that could not be put on again as they are, before anything is written.
    """
    layers = adapters_on(root)
    if not layers:
        return None
    refused = f"The adapters of {noun} cannot be saved: "
    configs = vars(root).get(CONFIGS)
    if not isinstance(configs, dict):
        raise GearshiftError(f"{refused}the model has no configuration of them. Merge them into the weights first.")
    layers = {path: layer for path, layer in layers.items() if _own(layer)}  # a deleted adapter leaves empty ones
    kept = {name: _plain(config.to_dict()) for name, config in configs.items()}
    odd = [f"{name} of {n!r}" for n, config in kept.items() for name in NOT_KEPT if config.get(name)]
    if odd:
        raise GearshiftError(f"{refused}{odd[0]} is not supported. Merge them into the weights first.")
    trained = [f"{p}.{n}" for p, layer in layers.items() for n, t in _own(layer).items() if t.requires_grad]
    settings = {"configs": kept, "layers": {p: _settings(layer) for p, layer in layers.items()}, "trained": trained}
    tensors = {f"{path}.{name}": t.detach() for path, layer in layers.items() for name, t in _own(layer).items()}
    try:
        again = _made({path: _base(layer) for path, layer in layers.items()}, settings, tensors)
        different = next((p for p in layers if not _alike(layers[p], again[p])), None)
    except Exception as error:
        raise GearshiftError(f"{refused}{told(error)}. Merge them into the weights first.") from error
    if different is not None:
        why = f"the one on {different} would not come back as it is"
        raise GearshiftError(f"{refused}{why}. Merge them into the weights first.")
    return settings, tensors


def write_adapters(kept: Kept, folder: Path) -> None:
    """Two files of what `keep_adapters` gave."""
    settings, tensors = kept
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1))
    write_tensors(tensors, folder / TENSORS)


def put_on(root: Module, folder: Path) -> None:
    """Put a module's adapters on again, from the folder of its part; none if none were written.

    Raises:
        BrokenFolder: if they do not fit.
    """
    file = folder / SETTINGS
    if not file.is_file():
        return
    settings, tensors = read_json(file, SHAPE), read_tensors(folder / TENSORS)
    with reading(file, "adapters"):
        bases = {path: root.get_submodule(path) for path in settings["layers"]}
        for path, layer in _made(bases, settings, tensors).items():
            _set(root, path, layer)
        setattr(root, CONFIGS, {name: _config(config) for name, config in settings["configs"].items()})
        setattr(root, FLAG, True)


def _made(bases: dict[str, Module], settings: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Adapters' layers on top of other layers, by path; made by peft in a tree that holds nothing else.

    Raises:
        Misfit: if the settings do not make the layers that the tensors are of.
    """
    import torch

    peft = need("peft", "peft", "A model with adapters")
    tree, grads = _tree(bases), {p: p.requires_grad for base in bases.values() for p in base.parameters()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, plain in settings["configs"].items():
            on = _paths_of(name, settings, tensors)
            if on:
                peft.inject_adapter_in_model(_config(plain, on), tree, name)
    for parameter, wanted in grads.items():
        parameter.requires_grad_(wanted)
    made = adapters_on(tree)
    if made.keys() != bases.keys():
        raise Misfit(f"peft puts adapters on {len(made)} layers, not on {len(bases)}")
    left = dict(tensors)
    for path, layer in made.items():
        for name, tensor in _own(layer).items():
            given = left.pop(f"{path}.{name}", None)
            if given is None or given.shape != tensor.shape:
                raise Misfit(f"{path}.{name} is missing or has another shape")
            tensor.data = given.clone()
            if tensor.is_floating_point():
                tensor.requires_grad_(f"{path}.{name}" in settings["trained"])
        _set_up(layer, settings["layers"][path])
    if left:
        raise Misfit(f"{next(iter(left))} is of no adapter")
    return made


def _tree(bases: dict[str, Module]) -> Module:
    import torch
    from torch import nn

    tree = nn.Module()
    tree.register_parameter("place", nn.Parameter(torch.empty(0)))  # peft asks a parameter where the model is
    for path, base in bases.items():
        holder: Any = tree
        *parents, name = path.split(".")
        for parent in parents:
            holder = holder._modules.setdefault(parent, nn.Module())
        holder._modules[name] = base
    return tree


def _config(plain: dict[str, Any], paths: list[str] | None = None) -> Any:
    """A peft configuration; with paths, one that puts adapters on these, whose first values matter to nobody."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {k: v for k, v in plain.items() if k not in ONLY_WHEN_MADE}
    odd = next((name for name in NOT_KEPT if known.get(name)), None)
    if odd is not None:
        raise Misfit(f"{odd} is not supported")
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(known["peft_type"])](**known)
    if paths is not None:
        config.target_modules = "|".join(map(re.escape, paths))
        for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            if hasattr(config, name):
                setattr(config, name, None)
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = False
    return config


def _paths_of(adapter: str, settings: dict[str, Any], tensors: dict[str, Tensor]) -> list[str]:
    """The layers that an adapter has tensors on."""
    mine = [name for name in tensors if adapter in name.split(".")]
    return [path for path in settings["layers"] if any(name.startswith(f"{path}.") for name in mine)]


def _base(layer: Any) -> Any:
    base = layer._modules[base_name(layer)]
    if base is not base_of(layer):
        raise Misfit("an adapter stands on another adapter's layer")
    return base


def _own(layer: Module) -> dict[str, Tensor]:
    """An adapter layer's own tensors by name, without those of what it stands on."""
    beneath = f"{base_name(layer)}."
    named = (*layer.named_parameters(), *layer.named_buffers())
    return {name: tensor for name, tensor in named if not name.startswith(beneath)}


def _settings(layer: Any) -> dict[str, Any]:
    """What an adapter's layer keeps besides tensors: which adapters work, which are merged, and their numbers."""
    tables = {name: getattr(layer, name, None) for name in type(layer).other_param_names}
    numbers = {
        name: {k: v for k, v in table.items() if isinstance(v, (bool, int, float))}
        for name, table in tables.items()
        if isinstance(table, dict)
    }
    merged, disabled = list(layer.merged_adapters), bool(layer._disable_adapters)
    return {"active": list(layer.active_adapters), "merged": merged, "disabled": disabled, "numbers": numbers}


def _set_up(layer: Any, settings: dict[str, Any]) -> None:
    layer._active_adapter, layer.merged_adapters = list(settings["active"]), list(settings["merged"])
    layer._disable_adapters = settings["disabled"]
    for name, table in settings["numbers"].items():
        own = getattr(layer, name, None)
        if name not in type(layer).other_param_names or not isinstance(own, dict) or not table.keys() <= own.keys():
            raise Misfit(f"{quoted(name)} is no setting of {type(layer).__name__}")
        own.update({adapter: value for adapter, value in table.items() if own[adapter] != value})
    layer.train(base_of(layer).training)


def _alike(layer: Any, again: Any) -> bool:
    """Whether two adapter layers are of one kind and hold equal tensors, those in plain attributes included."""
    import torch

    mine, its = _hidden(layer), _hidden(again)
    return (
        type(layer) is type(again)
        and _own(layer).keys() == _own(again).keys()
        and mine.keys() == its.keys()
        and all(torch.equal(mine[name], its[name]) for name in mine)
    )


def _hidden(layer: Module) -> dict[Any, Tensor]:
    """Tensors that a layer holds neither as parameters nor as buffers."""
    import torch

    plain = {name: value for name, value in vars(layer).items() if name not in ("_parameters", "_buffers", "_modules")}
    tables: dict[Any, Any] = {
        (name, key): v for name, value in plain.items() if isinstance(value, dict) for key, v in value.items()
    }
    return {name: value for name, value in {**plain, **tables}.items() if torch.is_tensor(value)}


def _plain(value: Any) -> Any:
    """JSON of a configuration: sets as sorted lists, names of an enum as strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in ONLY_WHEN_MADE}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
