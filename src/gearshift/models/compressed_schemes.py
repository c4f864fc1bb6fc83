"""compressed-tensors' format: which scheme says what a layer holds, and the `quantization_config` of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gearshift.core.boundary import Misfit
from gearshift.layers.float8 import Fp8Linear
from gearshift.models.packing import State, Whole, in_whole_numbers, to_int8, to_packed

PACKED, INT8, FLOAT8, SEVERAL = "pack-quantized", "int-quantized", "float-quantized", "mixed-precision"
TOKENS: dict[str, Any] = {"num_bits": 8, "symmetric": True, "strategy": "token", "dynamic": True}


class Compressed(NamedTuple):
    """A layer's tensors, and what the configuration says of them.

    Attributes:
        kind: the format's name.
        scheme: its weights and activations.
    """

    state: State
    kind: str
    scheme: dict[str, Any]


def compressed(layer: Any) -> Compressed:
    """A layer as compressed-tensors holds it.

    Raises:
        Misfit: as the end of a sentence about the layer, if it cannot be.
    """
    if isinstance(layer, Fp8Linear):
        if layer.qweight.dtype != torch.float8_e4m3fn:
            raise Misfit(f"its weight is {layer.qweight.dtype}, and the format has float8_e4m3fn alone")
        state = {"weight": layer.qweight, "weight_scale": layer.scale[:, None]}
        weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
        return Compressed(state, FLOAT8, {"weights": weights, "input_activations": {**TOKENS, "type": "float"}})
    grouped = getattr(layer, "in_groups", lambda: None)()
    if grouped is None:
        raise Misfit(f"it is a {type(layer).__name__}, whose weight is not held in whole numbers")
    weight = in_whole_numbers(grouped)
    scale = weight.scale.to(layer.dtype)  # readers compute in the scale's type
    if torch.equal(scale.float(), weight.scale.float()):
        weight = weight._replace(scale=scale)
    if weight.bits == 8 and layer.activations() is not None:
        scheme = {"weights": _integers(weight), "input_activations": {**TOKENS, "type": "int"}}
        return Compressed(to_int8(weight), INT8, scheme)
    return Compressed(to_packed(weight), PACKED, {"weights": _integers(weight), "input_activations": None})


def config_of(layers: Mapping[str, Compressed], others: list[str]) -> dict[str, Any]:
    """The `quantization_config` of a model.

    Args:
        layers: those in the format, by path.
        others: paths of linear layers that are not.
    """
    schemes: dict[str, list[str]] = {}
    for path, layer in layers.items():
        schemes.setdefault(json.dumps([layer.kind, layer.scheme], sort_keys=True), []).append(path)
    groups, kinds = {}, set()
    for number, (key, paths) in enumerate(schemes.items()):
        kind, scheme = json.loads(key)
        kinds.add(kind)
        targets = ["Linear"] if len(schemes) == 1 else paths
        groups[f"group_{number}"] = {"targets": targets, **scheme, "output_activations": None, "format": kind}
    return {
        "quant_method": "compressed-tensors",
        "format": kinds.pop() if len(kinds) == 1 else SEVERAL,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": others,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _integers(weight: Whole) -> dict[str, Any]:
    """What the configuration says of a weight in whole numbers."""
    told = {"num_bits": weight.bits, "type": "int", "symmetric": weight.symmetric, "dynamic": False}
    if weight.scale.shape[1] == 1 and weight.bits == 8:
        return {**told, "strategy": "channel", "group_size": None}
    return {**told, "strategy": "group", "group_size": weight.group}
