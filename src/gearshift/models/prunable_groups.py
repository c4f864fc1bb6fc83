"""What can be taken out of a model as a whole: neurons of feed-forward parts, heads, head dimensions, channels.

A group says which rows and columns of which layers belong to one unit, so that taking it out leaves a smaller dense
model. Groups are found by the names and shapes of layers, in transformer blocks and residual blocks of any model that
builds them so; nothing is traced here (`traced` does that for other models with convolutions).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from gearshift.models.groups import Group, Side, beside, path_below, spans

FEED_FORWARD = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("c_fc",), "c_proj"),
    (("fc1",), "fc2"),
    (("wi_0", "wi_1"), "wo"),
    (("wi",), "wo"),
    (("intermediate.dense",), "output.dense"),
    (("net.0.proj",), "net.2"),
)
ATTENTION = (
    (("q_proj", "k_proj", "v_proj"), "o_proj"),
    (("q_proj", "k_proj", "v_proj"), "out_proj"),
    (("q_proj", "k_proj", "v_proj"), "dense"),
    (("self.query", "self.key", "self.value"), "output.dense"),
    (("to_q", "to_k", "to_v"), "to_out.0"),
    (("c_attn",), "c_proj"),
)
HEADS = ("num_heads", "num_attention_heads", "heads", "n_heads")
SIZES = ("head_dim", "attention_head_size", "dim_head")
WHOLE = ("all_head_size", "inner_dim", "inner_kv_dim", "embed_dim", "split_size")
STATE = ("weight", "bias", "running_mean", "running_var")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def feed_forward(root: nn.Module) -> Iterator[Group]:
    """The hidden neurons of every feed-forward part."""
    for path, module in root.named_modules():
        for names, last in FEED_FORWARD:
            layers = [_layer(module, n) for n in names]
            end = _layer(module, last)
            if end is None or any(layer is None for layer in layers):
                continue
            units = _inputs(end)
            parts = {_outputs(layer) // units for layer in layers}
            if parts <= {1, 2} and all(_outputs(layer) % units == 0 for layer in layers):
                sides = [
                    Side(path_below(path, n), [spans(units, 1, p * units) for p in range(_outputs(layer) // units)])
                    for n, layer in zip(names, layers, strict=True)
                ]
                yield Group(path, "neurons", units, sides, [Side(path_below(path, last), [spans(units, 1)])])
                break


def attention_groups(root: nn.Module, dimensions: bool) -> Iterator[Group]:
    """The heads of every attention, those that share keys and values together; or the dimensions of its heads.

    Dimensions are taken out of queries, keys and values alike, the same number in each head. Where keys are rotated by
    position (rotary embeddings) or normalized they cannot be: these attentions are left out.
    """
    for path, module in root.named_modules():
        for names, last in ATTENTION:
            layers = [_layer(module, n) for n in names]
            end = _layer(module, last)
            if end is None or any(layer is None for layer in layers):
                continue
            inner = module if "." not in names[0] else module.get_submodule(names[0].partition(".")[0])
            if dimensions and _rotated(root, inner):
                break
            found = _heads(path, module, inner, names, layers, last, end, dimensions)
            if found is not None:
                yield found
            break


def channel_groups(root: nn.Module) -> Iterator[Group]:
    """The inner channels of residual blocks: between their first and second convolution."""
    for path, module in root.named_modules():
        first, second, norm = (getattr(module, n, None) for n in ("conv1", "conv2", "norm2"))
        if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and isinstance(norm, nn.GroupNorm)):
            continue
        units = first.out_channels
        if first.groups != 1 or second.in_channels != units or norm.num_channels != units:
            continue
        outputs = [Side(path_below(path, n), [spans(units, 1)]) for n in ("conv1", "norm2")]
        time = getattr(module, "time_emb_proj", None)
        if isinstance(time, nn.Linear) and time.out_features % units == 0:
            parts = time.out_features // units
            outputs.append(Side(path_below(path, "time_emb_proj"), [spans(units, 1, p * units) for p in range(parts)]))
        counts = [(path_below(path, "norm2"), "num_channels", 1), (path_below(path, "conv1"), "out_channels", 1)]
        inputs = [Side(path_below(path, "conv2"), [spans(units, 1)])]
        yield Group(path, "channels", units, outputs, inputs, counts, norm.num_groups)


def staying(root: nn.Module, chosen: Iterable[tuple[Group, torch.Tensor]]) -> dict[tuple[str, bool], torch.Tensor]:
    """What is left of each layer's rows (True) and columns (False), int64, if only some units of some groups stay.

    Rows and columns of no unit stay too, so groups may share a layer.
    """
    masks: dict[tuple[str, bool], torch.Tensor] = {}
    for group, kept in chosen:
        for side, rows in [(s, True) for s in group.outputs] + [(s, False) for s in group.inputs]:
            layer = root.get_submodule(side.path)
            mask = torch.ones(shape(layer)[_axis(layer, rows)], dtype=torch.bool)
            for map_ in side.maps:
                mask[map_.flatten()] = False
            for map_ in side.maps:
                mask[map_[kept].flatten()] = True
            masks[side.path, rows] = mask & masks.get((side.path, rows), mask)
    return {place: mask.nonzero().flatten() for place, mask in masks.items()}


def shrink(layer: nn.Module, rows: torch.Tensor | None, columns: torch.Tensor | None) -> None:
    """Keep these output rows, or these input columns, of a layer; its own sizes are told anew."""
    for name, value in state(layer).items():
        weight = name == "weight"
        cuts = [(rows, _axis(layer, True) if weight else 0)] + [(columns, _axis(layer, False))] * weight
        new = value.detach()
        for kept, axis in cuts:
            if kept is not None:
                new = new.index_select(axis, kept.to(new.device))
        if any(kept is not None for kept, _ in cuts):
            setattr(layer, name, nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new)
    sizes(layer)


def state(layer: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a layer that go by its rows or columns."""
    return {name: value for name in STATE if (value := getattr(layer, name, None)) is not None}


def shape(layer: nn.Module) -> list[int]:
    """The shape of a layer's weight, or of the means of a norm without one."""
    return list(next(iter(state(layer).values())).shape)


def place(layer: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors into a layer, and tell its sizes anew."""
    for name, value in tensors.items():
        setattr(layer, name, value)
    sizes(layer)


def resize(layer: nn.Module, wanted: list[int]) -> None:
    """Give a layer tensors without storage that fit a weight of another shape."""
    across = wanted[-1] if turned(layer) else wanted[0]
    for name, old in state(layer).items():
        new = torch.empty(wanted if name == "weight" else [across], dtype=old.dtype, device="meta")
        setattr(layer, name, nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new)
    sizes(layer)


def sizes(layer: Any) -> None:
    """Set what a layer says of its sizes to those of its weight."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, CONVOLUTIONS):
        layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    elif isinstance(layer, BATCH_NORMS):
        layer.num_features = shape(layer)[0]
    elif hasattr(layer, "normalized_shape"):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = layer.weight.shape[0]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.shape[0]
    elif turned(layer):
        layer.nx, layer.nf = layer.weight.shape


def _heads(
    path: str, module: Any, inner: Any, names: tuple, layers: list, last: str, end: Any, dimensions: bool
) -> Group | None:
    width = _inputs(end)
    size = next((int(getattr(inner, n)) for n in SIZES if isinstance(getattr(inner, n, None), int)), None)
    told = next((int(getattr(inner, n)) for n in HEADS if isinstance(getattr(inner, n, None), int)), None)
    count = width // size if size else told
    if not count or width % count:
        return None
    size, fused = width // count, len(layers) == 1
    shared = count if fused else _outputs(layers[1]) // size
    if shared < 1 or count % shared or (fused and _outputs(layers[0]) != 3 * width):
        return None
    together = count // shared
    inner_path = path if inner is module else path_below(path, names[0].partition(".")[0])
    if dimensions:
        maps = {n: torch.arange(n * size).view(n, size).T for n in (count, shared)}
        units, wide, narrow = size, maps[count], maps[shared]
        counts = [(inner_path, n, 1) for n in SIZES if getattr(inner, n, None) == size]
        counts += [(inner_path, n, count) for n in WHOLE if getattr(inner, n, None) == width]
    else:
        units, wide, narrow = shared, spans(shared, together * size), spans(shared, size)
        counts = [(inner_path, n, together) for n in HEADS if getattr(inner, n, None) == count]
        counts += [(inner_path, n, together * size) for n in WHOLE if getattr(inner, n, None) == width]
        counts += [(inner_path, n, 1) for n in ("num_key_value_heads",) if getattr(inner, n, None) == shared]
    if fused:
        outputs = [Side(path_below(path, names[0]), [wide + part * width for part in range(3)])]
    else:
        outputs = [Side(path_below(path, n), [m]) for n, m in zip(names, (wide, narrow, narrow), strict=True)]
    inputs = [Side(path_below(path, last), [wide])]
    if dimensions:
        return Group(path, "head dimensions", units, outputs, inputs, counts)
    more = beside(inner_path, inner, count, shared, size)
    return Group(path, "heads", units, outputs + more[0], inputs + more[1], counts, together=together, size=size)


def _rotated(root: nn.Module, inner: nn.Module) -> bool:
    """Whether queries and keys are turned by position, or normalized by head, so that dimensions belong together."""
    names = {type(m).__name__.lower() for m in root.modules()}
    normed = any(isinstance(getattr(inner, n, None), nn.Module) for n in ("norm_q", "norm_k", "q_norm", "k_norm"))
    return normed or any("rotary" in n or "rope" in n or "posembed" in n for n in names)


def _layer(module: nn.Module, path: str) -> Any:
    try:
        found = module.get_submodule(path)
    except AttributeError:
        return None
    return found if type(found) is nn.Linear or turned(found) else None


def turned(layer: Any) -> bool:
    """transformers' Conv1D keeps its weight as [in, out]."""
    return type(layer).__name__ == "Conv1D"


def _axis(layer: Any, rows: bool) -> int:
    """The axis of a layer's weight that its output rows, or its input columns, are on."""
    return int(rows) if turned(layer) else int(not rows)


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[_axis(layer, True)])


def _inputs(layer: Any) -> int:
    return int(layer.weight.shape[_axis(layer, False)])
