"""Running a language model block by block on calibration data, to see what its linear layers are given.

Only one block's inputs are kept, as they come out of the blocks before it: changed ones, if a quantizer changed them.
A model whose blocks cannot be run by themselves, or that has several stacks of them, is one big block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gearshift.core.model import evaluating
from gearshift.core.progress import track
from gearshift.models.probe import probe

HIDDEN = "hidden_states"
HEADLESS = {"input_ids", "attention_mask"}  # with these alone the output head, the largest matrix, need not run
SAME = 1e-3  # relative error within which a block run by itself does what it does inside of the model

Call = tuple[tuple[Any, ...], dict[str, Any]]


def put_matrix(layer: Any, values: torch.Tensor) -> None:
    """Give a linear layer another weight, written [out, in]; the one it had stays as it was."""
    values = values if isinstance(layer, nn.Linear) else values.T.contiguous()
    layer.weight.data = values.to(layer.weight.dtype)


@dataclass
class Block:
    """A block, and what it is called with on the calibration data.

    Attributes:
        module: the block.
        calls: arguments and keyword arguments, one pair for each batch.
        groups: linear layers to be calibrated, in the order they run; those of a group are given the same tensor.
        outputs: what the last `watch` or `advance` found.
    """

    module: nn.Module
    calls: list[Call]
    groups: list[list[Any]] = field(default_factory=list)
    outputs: list[torch.Tensor] | None = None

    @torch.no_grad()
    def output(self, number: int = 0) -> torch.Tensor:
        """The block's answer to one batch, hidden states or logits."""
        args, kwargs = self.calls[number]
        return _first(self.module(*args, **kwargs))

    def watch(self, seers: Mapping[Any, Callable[[torch.Tensor], None]]) -> None:
        """Run the block on all batches, and show all inputs of some layers, each to its own, as float32 [rows, in]."""

        def look(layer: Any, args: tuple[Any, ...]) -> None:
            seers[layer](args[0].detach().flatten(0, -2).float())

        handles = [layer.register_forward_pre_hook(look) for layer in seers]
        try:
            self.advance()
        finally:
            for handle in handles:
                handle.remove()

    def advance(self) -> list[torch.Tensor]:
        """Run the block as it is now: its outputs are what the next block will be given."""
        self.outputs = [self.output(number) for number in range(len(self.calls))]
        return self.outputs

    def with_groups(self, layers: Sequence[Any]) -> Iterator[Block]:
        """The block with its groups, which running one batch shows; nothing if none of the layers runs."""
        inputs: dict[Any, torch.Tensor] = {}

        def look(layer: Any, args: tuple[Any, ...]) -> None:
            inputs.setdefault(layer, args[0])

        handles = [layer.register_forward_pre_hook(look) for layer in layers]
        try:
            if layers:
                self.output()
        finally:
            for handle in handles:
                handle.remove()
        shared: dict[tuple, list[Any]] = {}
        for layer, x in inputs.items():
            shared.setdefault((x.data_ptr(), x.shape, x.stride()), []).append(layer)
        self.groups = list(shared.values())
        if self.groups:
            yield self


def walk(
    model: nn.Module, layers: Sequence[Any], batches: Sequence[Mapping[str, Any]], by: str = "gearshift"
) -> Iterator[Block]:
    """The blocks that hold some of the layers, one after the other; layers that no batch reaches are in none.

    Args:
        batches: arguments of the model, on its device.
        by: the algorithm's name, for the progress that is shown.
    """
    with evaluating(model):
        blocks = _blocks(model)
        calls = _record(model, blocks, batches) if blocks else None
        inside: set[Any] = set()
        if calls is not None:
            hidden = [_hidden(call) for call in calls[0]]
            for module in track(blocks, f"{by} calibrates blocks"):
                block = Block(module, [_given(call, h) for call, h in zip(calls.pop(0), hidden, strict=True)])
                mine = [layer for layer in layers if layer in set(module.modules())]
                inside.update(mine)
                yield from block.with_groups(mine)
                hidden = block.outputs or block.advance()
        rest = [layer for layer in layers if layer not in inside]
        yield from Block(model, [((), {**batch, "use_cache": False}) for batch in batches]).with_groups(rest)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model that has one stack of them."""
    stacks = probe(model).blocks
    return list(model.get_submodule(stacks[0]).children()) if len(stacks) == 1 else []


@torch.no_grad()
def _record(model: nn.Module, blocks: list[nn.Module], batches: Sequence[Mapping[str, Any]]) -> list[list[Call]] | None:
    """What each block is called with, hidden states only where the first one's; None if blocks cannot run alone."""
    calls: list[list[Call]] = [[] for _ in blocks]
    places = {block: number for number, block in enumerate(blocks)}
    order: list[int] = []
    seen: list[Any] = []

    def look(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        number = places[block]
        order.append(number)
        if not calls[-1]:
            seen.append(_hidden((args, kwargs)))
        calls[number].append((args, kwargs) if number == 0 else _given((args, kwargs), None))

    handles = [block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
    try:
        for batch in batches:
            run: Any = model.base_model if batch.keys() <= HEADLESS else model
            run(**{**batch, "use_cache": False})
    finally:
        for handle in handles:
            handle.remove()
    in_turn = order == list(range(len(blocks))) * len(batches)
    return calls if in_turn and _alone(blocks, calls, seen) else None


@torch.no_grad()
def _alone(blocks: list[nn.Module], calls: list[list[Call]], seen: list[Any]) -> bool:
    """Whether the blocks, run one after the other on the first batch, get what they got inside of the model."""
    hidden = seen[0]
    for number, block in enumerate(blocks):
        if not isinstance(hidden, torch.Tensor) or not _close(hidden, seen[number]):
            return False
        args, kwargs = _given(calls[number][0], hidden)
        hidden = _first(block(*args, **kwargs))
    return True


def _close(one: torch.Tensor, other: Any) -> bool:
    if not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).float().norm() <= SAME * other.float().norm())


def _hidden(call: Call) -> Any:
    args, kwargs = call
    return args[0] if args else kwargs.get(HIDDEN)


def _given(call: Call, hidden: Any) -> Call:
    """A call with other hidden states; None takes them out."""
    args, kwargs = call
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, HIDDEN: hidden})


def _first(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output
    return output[0] if isinstance(output, (tuple, list)) else output.logits
