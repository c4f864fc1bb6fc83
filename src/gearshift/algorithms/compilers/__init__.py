"""Run the modules in another way: compiled, traced, or in a runtime of their own.

What compilers that stay in torch share: at which gates they stand, so that gates of other algorithms stay outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.facts import ANY_KIND, Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.model import parts

WORTH_IT = 0.3  # share of the parameters below which compiling gains little


def compiler_facts(kinds: frozenset[Kind] = ANY_KIND, **more: Any) -> Facts:
    """What every compiler that stays in torch declares."""
    return Facts(
        family=Family.COMPILER,
        stage=Stage.COMPILE,
        occupies={Slot.RUNTIME},
        needs={Trait.TORCH_FORWARD},
        kinds=kinds,
        **more,
    )


@dataclass(eq=False)
class Compiling(Change):
    """A gate with a compiled forward behind it; hooks of other libraries stand around both."""

    gate: Any
    compiled: Any

    def apply(self) -> None:
        self.gate.compiled = self.compiled

    def revert(self) -> None:
        self.gate.compiled = None


def compile_behind(model: Any, context: Context, make: Callable[[Any], Any], blocks: bool = False) -> None:
    """Put compiled forwards behind the gates of a model.

    A denoiser is compiled whole, or with `blocks` its repeated blocks are. Where cachers have gates inside, there is a
    graph for each kind of pass that occurs; with `blocks`, and where that cannot be, the largest modules around which
    no gate stands are compiled, with a warning where these leave little of the parameters.

    Args:
        make: gives the compiled stand-in for a module.
    """
    from gearshift.models.diffusers import denoisers
    from gearshift.steps.install import gate_at, gates_below, watch_denoiser
    from gearshift.steps.predecided_pass import PredecidedForward, predecided_rules

    found = denoisers(model)
    if not found:
        modules = [m for part in parts(model).values() for m in (repeated(part) if blocks else [part])]
        compile_at([gate_at(module, context) for module in modules], context, make)
    for denoiser in found.values():
        outer = watch_denoiser(model, denoiser, context)
        inside = list(gates_below(denoiser))
        rules = predecided_rules(inside) if not blocks else []
        if rules:
            compile_at([outer], context, partial(PredecidedForward, rules=rules, make=make))
            continue
        chosen = _gates(denoiser, outer, context, blocks)
        _tell_share(denoiser, [gate.module for gate in chosen], context)
        compile_at(chosen, context, make)


def compile_at(gates: Iterable[Any], context: Context, make: Callable[[Any], Any]) -> None:
    """Put compiled forwards behind these gates, unless somebody gave a module a forward that is not its class's."""
    for gate in gates:
        if gate.wrapped_forward is None:
            context.change(Compiling(gate, make(gate.module)))
        else:
            context.warn(
                f"{type(gate.module).__name__} was given a forward that is not its class's own; that is run as it is, "
                "not compiled."
            )


def repeated(module: Any) -> list[Any]:
    """The members of the module's longest list of alike modules; the module itself if it has none."""
    from torch import nn

    lists = [list(m) for m in module.modules() if isinstance(m, nn.ModuleList) and len({type(c) for c in m}) == 1]
    return max(lists, key=len, default=[module])


def _gates(denoiser: Any, outer: Any, context: Context, blocks: bool) -> list[Any]:
    """Where to compile: around the gates inside, at the repeated blocks, or at the denoiser itself."""
    from gearshift.models.diffusers import describe_denoiser
    from gearshift.steps.install import gate_at, gates_below
    from gearshift.steps.site import block, block_stack

    row = describe_denoiser(denoiser)
    if any(gates_below(denoiser)):
        return [gate_at(module, context) for module in around_gates(denoiser)]
    if blocks:
        members = block_stack(denoiser, row) if row.unet else block(denoiser, row)
        return [gate_at(m, context) for (m,) in members]
    return [outer]


def around_gates(module: Any) -> Iterator[Any]:
    """The largest modules with no gate inside, among the gated ones and the members of module lists."""
    from torch import nn

    from gearshift.steps.install import gates_below

    if not any(gates_below(module)):
        yield module
        return
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            for item in child:
                yield from around_gates(item)
        elif _is_gated(child) or any(gates_below(child)):
            yield from around_gates(child)


def _is_gated(module: Any) -> bool:
    from gearshift.steps.gate import gate_of

    gate = gate_of(module)
    return gate is not None and not gate.traced


def _tell_share(denoiser: Any, modules: list[Any], context: Context) -> None:
    """Warn where little lies in the modules that are compiled."""
    assert context.applied is not None
    inside = {p for m in modules for p in m.parameters()}
    share = sum(p.numel() for p in inside) / max(sum(p.numel() for p in denoiser.parameters()), 1)
    if share < WORTH_IT:
        context.warn(
            f"{context.applied.algorithm.name} compiles modules with {share:.0%} of the parameters of "
            f"{type(denoiser).__name__} only: little will be gained."
        )
