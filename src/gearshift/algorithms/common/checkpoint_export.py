"""Models in the formats of other programs, which read them without gearshift. Nothing is rounded for it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gearshift.core.adapters import adapters_on
from gearshift.core.boundary import Misfit
from gearshift.core.errors import BadValue, BrokenFolder, UnknownName, WrongModel, quoted
from gearshift.core.files import place_of, replacing_folder
from gearshift.core.model import Runtime, parts
from gearshift.core.record import Record, record_of
from gearshift.core.transaction import Transaction
from gearshift.persist.libraries.diffusers import write_pipeline
from gearshift.persist.plain_parts import as_configured, plain_part, plain_state, write_quantized
from gearshift.persist.readers import readers_of, write_readers
from gearshift.persist.store import first_replayed

if TYPE_CHECKING:
    from gearshift.models.packing import State, Whole
    from gearshift.quant.formats.grouped import Grouped

Write = Callable[[Path], None]
Readers = Mapping[str, Any]
GROUPS = (16, 32, 64, 128, 256, 512, 1024)  # inputs that share a scale where GPTQ's readers have kernels for them


def export(
    model: Any, folder: str | os.PathLike[str], format: str, tokenizer: Any = None, overwrite: bool = False
) -> Path:
    """Write a model in another program's format: weights bit for bit, configuration and tokenizer beside them.

    Args:
        format: 'safetensors': floats in the library's own layout; 'compressed-tensors', 'gptq' or 'awq': a folder in
            transformers' layout for it and vLLM; 'gguf': model.gguf for llama.cpp.
        tokenizer: None: the one that the model was optimized or read with.
        overwrite: whatever is in the folder may go.

    Raises:
        UnknownName: for another format.
        WrongModel: for a model that the format cannot hold as it is, naming the layer; nothing is written.
        BrokenFolder: if the folder holds something, or the disk does not take it; what was there still is.
    """
    target = place_of(folder, "A folder to export into")
    if format not in FORMATS:
        raise UnknownName("format of export", format, FORMATS)
    if not isinstance(overwrite, bool):
        raise BadValue(f"overwrite must be True or False. Got {quoted(overwrite)} instead.")
    _refuse_occupied(target, overwrite)
    if isinstance(model, Runtime):
        raise WrongModel(f"A {type(model).__name__} cannot be exported: another engine holds its weights.")
    with _weights_alone(model) as record, _refusing(model, format):
        readers = {**readers_of(model), **record.readers, **({} if tokenizer is None else {"tokenizer": tokenizer})}
        write = FORMATS[format](model, readers)
        with replacing_folder(target, None if overwrite else _nobodys) as scratch:
            write(scratch)
    return target


def _refuse_occupied(target: Path, overwrite: bool) -> None:
    """Raise BrokenFolder for a folder that is not empty; always for a file or a home folder."""
    if not os.path.lexists(target):
        return
    if not target.is_dir() or (overwrite and Path.home().is_relative_to(target)):
        raise BrokenFolder(f"{target} exists and is no folder that can be replaced; choose another one.")
    if not overwrite and _nobodys(target) is None:
        raise BrokenFolder(f"{target} holds something; choose another folder, or overwrite it, which deletes that.")


def _nobodys(folder: Path) -> set[str] | None:
    """Nothing, of an empty folder; None for any other."""
    return None if any(folder.iterdir()) else set()


@contextmanager
def _weights_alone(model: Any) -> Iterator[Record]:
    """A model without what is no matter of its weights, for the length of a block; its record."""
    record = record_of(model) or Record()
    record.refuse_disabled("exported")
    for part in parts(model).values():
        if adapters_on(part):
            raise WrongModel(f"{type(part).__name__} has adapters; merge them into the weights before exporting it.")
    with Transaction(model, keep=False):
        record.revert(down_to=first_replayed(record), exact=False)
        yield record


@contextmanager
def _refusing(model: Any, format: str) -> Iterator[None]:
    """What does not fit the format, as a sentence about the model."""
    try:
        yield
    except Misfit as error:
        raise WrongModel(f"{type(model).__name__} cannot be exported as {format}: {error}.") from error


def _floats(model: Any, readers: Readers) -> Write:
    """safetensors: a module or a pipeline as its library saves it."""
    found = {name: plain_part(part) for name, part in parts(model).items()}

    def write(folder: Path) -> None:
        if "" not in found:
            write_pipeline(model, folder)
        for name, part in found.items():
            part.save_pretrained(str(folder / name))  # type: ignore[operator]
        write_readers(model, dict(readers), folder)

    return write


def _compressed_tensors(model: Any, readers: Readers) -> Write:
    from gearshift.models.compressed_schemes import compressed, config_of

    found = {}
    for path, layer in _quantized(model).items():
        with _about(path):
            found[path] = compressed(layer)
    told = config_of(found, _float_linears(model, found))
    return _in_transformers_layout(model, readers, {path: layer.state for path, layer in found.items()}, told)


def _gptq(model: Any, readers: Readers) -> Write:
    from gearshift.models.packing import to_gptq

    layers = _whole_layers(model)
    (first, one), *_ = layers.items()
    for path, layer in layers.items():
        with _about(path):
            if layer.bits != one.bits:
                raise Misfit(f"it has {layer.bits} bits and {first} {one.bits}, and the format has one number for all")
            if layer.group not in GROUPS and layer.scale.shape[1] > 1:
                raise Misfit(f"{layer.group} inputs share a scale, and the format has {', '.join(map(str, GROUPS))}")
    less = int(all(bool(layer.zero.all()) for layer in layers.values()))  # else 0 less 1 would wrap around
    told = {
        **_common("gptq", layers),
        "checkpoint_format": "gptq" if less else "gptq_v2",
        "desc_act": False,
        "sym": all(layer.symmetric for layer in layers.values()),
        "lm_head": "lm_head" in layers,
        "dynamic": {f"-:^{re.escape(path)}$": {} for path in _float_linears(model, layers)},
    }
    return _in_transformers_layout(model, readers, _each(layers, lambda layer: to_gptq(layer, less)), told)


def _awq(model: Any, readers: Readers) -> Write:
    from gearshift.models.packing import to_awq

    layers = _whole_layers(model)
    told = {
        **_common("awq", layers),
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": _float_linears(model, layers) or None,
    }
    return _in_transformers_layout(model, readers, _each(layers, to_awq), told)


def _gguf(model: Any, readers: Readers) -> Write:
    from gearshift.models.gguf_writing import gguf_writer

    layers, made = _grouped(model), as_configured(model)
    floats = plain_state(model, made, {f"{path}.weight" for path in layers})
    return gguf_writer(model.config, layers, floats, readers.get("tokenizer"))


FORMATS: dict[str, Callable[[Any, Readers], Write]] = {
    "safetensors": _floats,
    "compressed-tensors": _compressed_tensors,
    "gptq": _gptq,
    "awq": _awq,
    "gguf": _gguf,
}


def _in_transformers_layout(model: Any, readers: Readers, packed: dict[str, State], told: dict[str, Any]) -> Write:
    """What writes a model of transformers with packed layers, checked."""
    made = as_configured(model)
    for path, layer in ((path, model.get_submodule(path)) for path in packed):
        wanted = made.get_submodule(path)
        if (wanted.in_features, wanted.out_features) != (layer.in_features, layer.out_features):
            raise Misfit(f"{path} is not what its configuration makes")
    state = plain_state(model, made, {f"{path}.weight" for path in packed})
    for path, layer in packed.items():
        state |= {f"{path}.{name}": tensor for name, tensor in layer.items()}

    def write(folder: Path) -> None:
        write_quantized(model, state, told, folder)
        write_readers(model, dict(readers), folder)

    return write


def _quantized(model: Any) -> dict[str, Any]:
    """The layers of few bits by path; a model of transformers has to have some."""
    from transformers import PreTrainedModel

    from gearshift.layers.base import QuantizedLayer, QuantizedLinear

    if not isinstance(model, PreTrainedModel):
        raise Misfit("it is no model of transformers, whose layout the format is in")
    found = {path: layer for path, layer in model.named_modules() if isinstance(layer, QuantizedLayer)}
    if not found:
        raise Misfit("none of its layers is quantized; 'safetensors' holds floats")
    for path, layer in found.items():
        if not isinstance(layer, QuantizedLinear):
            raise Misfit(f"{path}: it is a {type(layer).__name__}, and the format has linear layers alone")
    return found


def _grouped(model: Any) -> dict[str, Grouped]:
    found = {}
    for path, layer in _quantized(model).items():
        grouped = getattr(layer, "in_groups", lambda: None)()
        if grouped is None:
            raise Misfit(f"{path}: it is a {type(layer).__name__}, whose weight is not held in whole numbers")
        found[path] = grouped
    return found


def _whole_layers(model: Any) -> dict[str, Whole]:
    """The layers in whole numbers, all with groups of one size; as they are if each has one scale for an output."""
    from gearshift.models.packing import dividing_group, in_whole_numbers

    found = _grouped(model)
    together = math.gcd(*map(dividing_group, found.values()))
    by_channel = all(layer.scale.shape[1] == 1 for layer in found.values())
    layers = {}
    for path, layer in found.items():
        with _about(path):
            layers[path] = in_whole_numbers(layer, None if by_channel else together)
    return layers


def _each(layers: Mapping[str, Whole], pack: Callable[[Whole], State]) -> dict[str, State]:
    packed = {}
    for path, layer in layers.items():
        with _about(path):
            packed[path] = pack(layer)
    return packed


def _common(method: str, layers: Mapping[str, Whole]) -> dict[str, Any]:
    """What the configurations of several formats say."""
    first, by_channel = next(iter(layers.values())), all(layer.scale.shape[1] == 1 for layer in layers.values())
    return {"quant_method": method, "bits": first.bits, "group_size": -1 if by_channel else first.group}


def _float_linears(model: Any, layers: Mapping[str, Any]) -> list[str]:
    """The linear layers of a model that are not among these."""
    from torch import nn

    return [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear) and path not in layers]


@contextmanager
def _about(path: str) -> Iterator[None]:
    """What does not fit the format, with the layer's path before it."""
    try:
        yield
    except Misfit as error:
        raise Misfit(f"{path}: {error}") from error
