"""Reading folders of language models that other programs quantized, in transformers' layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gearshift.core.boundary import Misfit, reading
from gearshift.core.building import within_bounds
from gearshift.core.errors import BrokenFolder, quoted
from gearshift.core.extras import need
from gearshift.core.plain import anything, dict_of, fields, read_json, text
from gearshift.core.target import put
from gearshift.core.tensors import read_tensors
from gearshift.layers.grouped import GroupedLinear
from gearshift.quant.formats.grouped import Grouped

Layers = Mapping[str, Mapping[str, torch.Tensor]]  # by path: tensors by name
Convert = Callable[[Mapping[str, torch.Tensor], str, tuple[int, int]], Grouped]
Format = Callable[[Mapping[str, Any], Mapping[str, torch.Tensor]], tuple[str, Convert] | None]

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
ONE = "model.safetensors"
FILE = text(r"[\w.+-]+\.safetensors", "the name of a safetensors file beside it", most=255)


def read_quantized(folder: Path, formats: Format) -> tuple[Any, dict[str, GroupedLinear]]:
    """A causal language model from a folder, and its quantized layers by path.

    Args:
        formats: from config.json's quantization and all tensors: the tensor that a quantized layer is known by, and
            what reads its tensors; None for what cannot be read.

    Raises:
        BrokenFolder: for a folder that is not such a model, or one in a format that cannot be read, naming it.
    """
    with reading(folder, "a transformers model"):
        config = read_json(folder / CONFIG, dict_of(anything), "the configuration of a transformers model")
        told = config.get("quantization_config") or {}
        if not isinstance(told, dict):
            raise Misfit(f"its quantization_config must be a dict, not {quoted(told)}")
        files = _files(folder)
        state = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
        found = formats(told, state)
        if found is None:
            named = " ".join(quoted(told[name]) for name in ("quant_method", "format") if name in told)
            raise BrokenFolder(f"{folder} holds weights in the format {named or 'float'}, which cannot be read here.")
        with within_bounds(files):
            model = _skeleton(folder, config.get("model_type"))
        layers = _fill(model, state, *found)
        _must_be_whole(model)
    return model, layers


def layers_of(state: Mapping[str, torch.Tensor], marker: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each layer that has one of this name, by the layer's path."""
    found: dict[str, dict[str, torch.Tensor]] = {
        name.removesuffix(f".{marker}"): {} for name in state if name.endswith(f".{marker}")
    }
    for name, tensor in state.items():
        path, _, last = name.rpartition(".")
        if path in found:
            found[path][last] = tensor
    return found


def _fill(model: Any, state: dict[str, torch.Tensor], marker: str, convert: Convert) -> dict[str, GroupedLinear]:
    """Put quantized layers in their places, and all tensors into the model."""
    layers: dict[str, GroupedLinear] = {}
    known = dict(model.named_modules())
    for path, parts in layers_of(state, marker).items():
        layer = known.get(path)
        if not isinstance(layer, torch.nn.Linear):
            raise Misfit(f"{quoted(path)} is no linear layer of {type(model).__name__}")
        made = GroupedLinear.of(layer, convert(parts, path, (layer.out_features, layer.in_features)))
        put(model, path, made.eval())
        layers[path] = made
        for name in parts:
            del state[f"{path}.{name}"]
        own = {"codes", "scale", "zero", "bias"} & made.state_dict().keys()
        state |= {f"{path}.{name}": parts.get(name, getattr(made, name)) for name in own}
    if not layers:
        raise Misfit("it holds no quantized layer")
    _, extra = model.load_state_dict(state, strict=False, assign=True)
    if extra:
        raise Misfit(f"{quoted(extra[0])} is no tensor of {type(model).__name__}")
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return layers


def _must_be_whole(model: Any) -> None:
    """Raise Misfit unless every parameter has finite floating values."""
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise Misfit(f"{name} is missing")
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise Misfit(f"{name} must hold finite floating-point numbers")


def _files(folder: Path) -> list[Path]:
    """The weights: the files that the index names, else model.safetensors, else any safetensors."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, fields({"weight_map": dict_of(FILE)}, {"metadata": anything}))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    files = [folder / ONE] if (folder / ONE).is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise BrokenFolder(f"{folder} holds no safetensors.")
    return files


def _skeleton(folder: Path, kind: Any) -> Any:
    """The model as its configuration makes it, its parameters without storage."""
    transformers = need("transformers", "transformers", "Reading a language model")
    accelerate = need("accelerate", "transformers", "Reading a language model")
    if kind not in list(transformers.CONFIG_MAPPING):
        raise Misfit(
            f"its model_type is {quoted(kind)}, which transformers does not know, and code of its own is not run"
        )
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    del config.quantization_config
    with accelerate.init_empty_weights(include_buffers=False):
        dtype = config.dtype or torch.float32
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False).eval()
