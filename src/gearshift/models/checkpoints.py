"""Reading language models that other programs quantized: GPTQ's format, and compressed-tensors' packed integers.

Both pack codes end to end into little-endian 32-bit words, one input channel after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gearshift.core.errors import BrokenFolder
from gearshift.core.extras import need
from gearshift.core.store import read_weights
from gearshift.core.target import put
from gearshift.kernels.grouped import Grouped, assemble
from gearshift.kernels.grouped_linear import GroupedLinear

State = Mapping[str, torch.Tensor]
Format = tuple[str, Callable[[State, str], Grouped]]  # the tensor a layer is known by, and what reads its tensors


def read_quantized(
    folder: Path, formats: Callable[[Mapping[str, Any]], Format | None]
) -> tuple[Any, dict[str, GroupedLinear]]:
    """A causal language model from a folder of transformers' layout, and its quantized layers by path.

    Args:
        formats: what reads layers that were quantized as config.json says; None for what cannot be read.

    Raises:
        BrokenFolder: for a folder that is not such a model, or one in a format that cannot be read, naming it.
    """
    told = _config(folder).get("quantization_config", {})
    found = formats(told)
    if found is None:
        named = " ".join(str(told[name]) for name in ("quant_method", "format") if name in told)
        raise BrokenFolder(f"{folder} holds weights in the format {named or 'float'}, which cannot be read here.")
    marker, convert = found
    state = _state(folder)
    model = _skeleton(folder)
    layers = {}
    for path in [name.removesuffix(f".{marker}") for name in state if name.endswith(f".{marker}")]:
        parts = {name.rpartition(".")[2]: state.pop(name) for name in list(state) if name.rpartition(".")[0] == path}
        layers[path] = GroupedLinear.of(model.get_submodule(path), convert(parts, path))
        put(model, path, layers[path].eval())
        own = {"codes", "scale", "zero", "bias"} & layers[path].state_dict().keys()
        state |= {f"{path}.{name}": parts.get(name, getattr(layers[path], name)) for name in own}
    _, extra = model.load_state_dict(state, strict=False, assign=True)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if extra or empty:
        raise BrokenFolder(f"{folder} does not fit {type(model).__name__}: {len(empty)} missing, {len(extra)} unknown.")
    if not layers:
        raise BrokenFolder(f"{folder} holds no quantized layer.")
    return model, layers


def from_gptq(parts: State, path: str, bits: int, group: int, plus: int = 1) -> Grouped:
    """qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32], scales [groups, out], g_idx [in].

    Args:
        group: -1: one group.
        plus: what is added to the zeros; the first version of the format keeps them less one.

    Raises:
        BrokenFolder: if the inputs of a group are not neighbors.
    """
    codes = unpack_words(parts["qweight"].T, bits)
    width = codes.shape[1]
    group = width if group == -1 else group
    order = parts.get("g_idx")
    if order is not None and not torch.equal(order.long(), torch.arange(width, device=order.device) // group):
        raise BrokenFolder(f"{path} was quantized in the order of its activations, with groups that are not neighbors.")
    scale = parts["scales"].T
    zero = unpack_words(parts["qzeros"], bits)[:, : scale.shape[0]].T.float() + plus
    return _assembled(codes, scale, zero, bits, group)


def from_packed(parts: State, path: str) -> Grouped:
    """weight_packed int32 [out, in * bits / 32], weight_scale [out, groups], weight_shape; weight_zero_point or none.

    Raises:
        BrokenFolder: if the inputs of a group are not neighbors.
    """
    if "weight_g_idx" in parts and bool((parts["weight_g_idx"].diff() < 0).any()):
        raise BrokenFolder(f"{path} was quantized in the order of its activations, with groups that are not neighbors.")
    out, width = (int(n) for n in parts["weight_shape"])
    packed, scale = parts["weight_packed"], parts["weight_scale"]
    bits = packed.shape[1] * 32 // width
    group = -(-width // scale.shape[1])
    zero = torch.full(scale.shape, 2.0 ** (bits - 1))
    if "weight_zero_point" in parts:
        zero = unpack_words(parts["weight_zero_point"].T, bits)[:, :out].T.float()
    return _assembled(unpack_words(packed, bits)[:, :width], scale, zero, bits, group)


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The unsigned numbers of so many bits that lie end to end in int32 words [n, words]: uint8 [n, numbers]."""
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    single = (octets[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)
    whole = single[:, : single.shape[1] // bits * bits].unflatten(1, (-1, bits))
    return (whole << torch.arange(bits, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def _assembled(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, group: int) -> Grouped:
    dtype = torch.float16 if scale.dtype == torch.float16 else torch.float32
    return assemble(codes, scale.to(dtype).contiguous(), zero.to(dtype).contiguous(), bits, group)


def _config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BrokenFolder(f"{folder} is no folder of a transformers model: {error}") from None


def _state(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BrokenFolder(f"{folder} holds no safetensors.")
    return {name: tensor for file in files for name, tensor in read_weights(file).items()}


def _skeleton(folder: Path) -> Any:
    transformers = need("transformers", "transformers", "Reading a language model")
    accelerate = need("accelerate", "transformers", "Reading a language model")
    config = transformers.AutoConfig.from_pretrained(folder)
    del config.quantization_config
    with accelerate.init_empty_weights(include_buffers=False):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype or torch.float32).eval()
