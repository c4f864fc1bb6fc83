"""Run the modules in another way: compiled, traced, or in a runtime of their own.

What compilers that stay in torch share: at which gates they stand, so that gates of other algorithms stay outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gearshift.core.context import Context
from gearshift.core.facts import ANY_KIND, Facts, Family, Kind, Slot, Stage, Trait

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
class Compiling:
    """A gate with a compiled forward behind it."""

    gate: Any
    compiled: Any

    def lay(self) -> None:
        self.gate.compiled = self.compiled

    def lift(self) -> None:
        self.gate.compiled = None

    def why_not(self) -> None:
        return None


def gates_to_compile(model: Any, context: Context, blocks: bool = False) -> list[Any]:
    """The gates whose forwards are to be compiled, one graph each.

    A denoiser without gates inside is one of them, or with `blocks` its repeated blocks are; in one with gates inside,
    the largest modules around which none stands. Warns where these leave little of the parameters.
    """
    from gearshift.core.model import parts
    from gearshift.models.diffusers import denoisers
    from gearshift.steps.install import gate_at, watch

    found = denoisers(model)
    if not found:
        modules = [m for part in parts(model).values() for m in (repeated(part) if blocks else [part])]
        return [gate_at(module, context) for module in modules]
    gates = []
    for denoiser in found.values():
        outer = watch(model, denoiser, context)
        chosen = _gates(denoiser, outer, context, blocks)
        _tell_share(denoiser, [gate.module for gate in chosen], context)
        gates += chosen
    return gates


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
    """Warn where gates of other algorithms leave little to compile."""
    assert context.applied is not None
    inside = {p for m in modules for p in m.parameters()}
    share = sum(p.numel() for p in inside) / max(sum(p.numel() for p in denoiser.parameters()), 1)
    if share < WORTH_IT:
        context.warn(
            f"{context.applied.algorithm.name} stays outside of the gates of other algorithms, and these leave it "
            f"{share:.0%} of the parameters of {type(denoiser).__name__}: little will be gained."
        )
