"""Models that other programs quantized, taken over as if they had been quantized here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_checkpoint(folder: str | os.PathLike[str]) -> Any:
    """A causal language model of weights in GPTQ's format or in compressed-tensors' pack-quantized, to run and save.

    Args:
        folder: of transformers' layout, with its quantization in config.json and weights in safetensors.

    Raises:
        BrokenFolder: for a folder that is not such a model, or a format that cannot be read.
    """
    from gearshift.algorithms.quantizers.gptq import Gptq
    from gearshift.core.record import Applied, Record, attach
    from gearshift.models.checkpoints import read_quantized

    model, layers = read_quantized(Path(folder), _format)
    first = next(iter(layers.values()))
    choices = {name: declared.bound.samples() for name, declared in Gptq.params().items()}
    known: dict[str, Any] = {"weight_bits": first.bits, "group_size": first.group}
    algorithm = Gptq(**{name: value for name, value in known.items() if value in choices[name]})
    applied = Applied(algorithm, notes=[f"Read from {Path(folder).name}, where it was quantized already."])
    applied.saved.update(parts=[""], paths={"": {path: algorithm.keepsake(layer) for path, layer in layers.items()}})
    record = Record()
    record.insert(0, applied)
    attach(model, record)
    return model


def _format(told: Mapping[str, Any]) -> Any:
    """How the layers of a model with this `quantization_config` are read; None if they cannot be."""
    from gearshift.models.checkpoints import from_gptq, from_packed

    if told.get("quant_method") == "gptq":
        plus = 0 if told.get("checkpoint_format") == "gptq_v2" else 1
        return "qweight", lambda parts, path: from_gptq(parts, path, told["bits"], told["group_size"], plus)
    if (told.get("quant_method"), told.get("format")) == ("compressed-tensors", "pack-quantized"):
        return "weight_packed", from_packed
    return None
