"""One matrix for query, key and value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.errors import GearshiftError
from gearshift.core.facts import Facts, Family, Kind, Persist, Stage, Trait
from gearshift.core.plain import PARTS


class QkvDiffusers(Algorithm):
    """Fuse the query, key and value projections of the denoiser's attention into one matrix.

    Cross-attention gets one matrix for key and value. The separate weights are not kept beside the fused one; they can
    be cut out of it again bit for bit. Every attention class whose projections are plain linear layers is fused.
    """

    facts = Facts(
        family=Family.FACTORIZER,
        stage=Stage.FACTORIZE,
        persist=Persist.WEIGHTS,
        needs={Trait.DENOISES, Trait.ATTENTION, Trait.FLOAT_WEIGHTS},
        kinds={Kind.DIFFUSION},
    )

    reversible: ClassVar[bool] = True

    saved_fields: ClassVar = {"parts": PARTS}

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.models.diffusers import denoisers

        fused = left = 0
        changed = denoisers(model)
        for denoiser in changed.values():
            for path, module in list(denoiser.named_modules()):
                groups = list(_groups(path, module))
                left += not groups and hasattr(module, "to_q")
                for names in groups:
                    context.change(Fusion(module, names))
                    fused += 1
        context.save(parts=list(changed))
        context.measured(projections_fused=fused)
        if left:
            context.note(f"{left} attention modules were left as they were: their projections are not plain and alike.")


@dataclass(eq=False)
class Fusion(Change):
    """Projections of one attention module, fused."""

    attention: Any
    names: list[str]
    linears: list[Any] = field(default_factory=list)
    fused: list[Any] = field(default_factory=list)

    def apply(self) -> None:
        from gearshift.layers.fused import fuse

        places = self._places()
        self.linears = [holder._modules[name] for holder, name in places]
        self.fused = fuse(self.linears)
        for (holder, name), module in zip(places, self.fused, strict=True):
            holder._modules[name] = module

    def revert(self) -> None:
        from gearshift.layers.fused import unfuse

        places = self._places()
        for (holder, name), module in zip(places, self.fused, strict=True):
            if holder._modules[name] is not module:
                raise GearshiftError(f"{', '.join(self.names)} were replaced after they were fused; put them back.")
        unfuse(self.fused[0], self.linears)
        for (holder, name), linear in zip(places, self.linears, strict=True):
            holder._modules[name] = linear

    def _places(self) -> list[tuple[Any, str]]:
        """Where the projections stand: in the attention module, or in the adapters that were put on them."""
        return [_beneath(self.attention, name) for name in self.names]


def _beneath(holder: Any, name: str) -> tuple[Any, str]:
    while "base_layer" in holder._modules[name]._modules:  # peft's name for what an adapter stands on
        holder, name = holder._modules[name], "base_layer"
    return holder, name


def _groups(path: str, module: Any) -> Iterator[list[str]]:
    """Names of the projections of one attention module that read the same input."""
    crossed = getattr(module, "is_cross_attention", None)
    if crossed is None:
        crossed = path.endswith("attn2")
    for names in (["to_q", "to_k", "to_v"], ["add_q_proj", "add_k_proj", "add_v_proj"]):
        if crossed and names[0] == "to_q":
            names = names[1:]
        if _alike([getattr(module, name, None) for name in names]):
            yield names


def _alike(linears: list[Any]) -> bool:
    from torch import nn

    return all(type(m) is nn.Linear for m in linears) and (
        len({m.in_features for m in linears}) == len({m.bias is None for m in linears}) == 1
    )
