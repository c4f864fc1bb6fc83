"""Models that other programs quantized, taken over as if they had been quantized here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit, path_of
from gearshift.core.plain import one_of, whole
from gearshift.core.record import Applied, Record, attach
from gearshift.core.target import Baked

if TYPE_CHECKING:
    from gearshift.core.record import Applied


def read_checkpoint(place: str | os.PathLike[str]) -> Any:
    """A causal language model that another program quantized, to run and save.

    Args:
        place: a GGUF file (llama.cpp's); or a folder of transformers' layout, with its quantization in config.json and
            weights in safetensors, in GPTQ's or AWQ's format or compressed-tensors' pack-quantized. Of a GGUF file,
            layers in Q4_0, Q4_1, Q5_0 and Q8_0 keep their codes, and all others are widened to float32.

    Raises:
        BrokenFolder: for what is not such a model, or a format that cannot be read.
    """
    from gearshift.models.checkpoints import read_quantized
    from gearshift.models.gguf_files import read_gguf

    found = path_of(place, "A quantized model")
    record, notes = Record(), [f"Read from {found.name}, where it was quantized already."]
    if found.suffix == ".gguf":
        model, layers, tokenizer = read_gguf(found)
        model.tokenizer = record.readers["tokenizer"] = tokenizer
    else:
        model, layers = read_quantized(found, partial(_format, notes))
    if layers:
        record.insert(0, _as_if_applied(layers, notes))
    attach(model, record)
    return model


def _as_if_applied(layers: Mapping[str, Any], notes: list[str]) -> Applied:
    """What the record would say had a quantizer made these layers, by their paths."""
    from gearshift.algorithms.quantizers.gptq import Gptq

    first = next(iter(layers.values()))
    choices = {name: declared.bound.samples() for name, declared in Gptq.params().items()}
    known: dict[str, Any] = {"weight_bits": first.bits, "group_size": first.group}
    algorithm = Gptq(**{name: value for name, value in known.items() if value in choices[name]})
    applied = Applied(algorithm, notes=notes)
    applied.saved.update(parts=[""], paths={"": {path: algorithm.format(layer) for path, layer in layers.items()}})
    applied.changes.append(Baked(algorithm.name))
    return applied


def _format(notes: list[str], told: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """How the layers of a model with this `quantization_config` are read; None if they cannot be."""
    from gearshift.models.packed import from_awq, from_packed

    if told.get("quant_method") == "gptq":
        return "qweight", _gptq(notes, told, state)
    if told.get("quant_method") == "awq" and told.get("bits", 4) == 4 and told.get("version", "gemm").lower() == "gemm":
        return "qweight", partial(from_awq, group=_group(told))
    if (told.get("quant_method"), told.get("format")) == ("compressed-tensors", "pack-quantized"):
        return "weight_packed", from_packed
    return None


def _group(told: Mapping[str, Any]) -> int:
    group = whole(-1)(told.get("group_size", -1), "quantization_config.group_size")
    if group == 0:
        raise Misfit("quantization_config.group_size must be 1 or more, or -1 for one group")
    return group


def _gptq(notes: list[str], told: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """What reads GPTQ's layers. Its two versions keep zeros differently, and the layers' own word goes before the name.

    Raises:
        Misfit: for bits or groups that the format has not.
    """
    from gearshift.models.checkpoints import layers_of
    from gearshift.models.packed import BITS, from_gptq, zeros_less_one

    bits = one_of(*BITS)(told.get("bits"), "quantization_config.bits")
    group = _group(told)
    named = told.get("checkpoint_format") != "gptq_v2"
    shown = zeros_less_one(layers_of(state, "qweight").values(), bits)
    if shown is not None and shown is not named:
        versions = ("first", "second") if shown else ("second", "first")
        notes.append(
            f"Its zeros are stored as in the format's {versions[0]} version, though it names the {versions[1]}."
        )
    return partial(from_gptq, bits=bits, group=group, plus=int(named if shown is None else shown))
