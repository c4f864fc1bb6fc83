"""What the compilers that convert to CTranslate2 declare."""

from __future__ import annotations

from gearshift.core.facts import Facts, Family, Kind, Persist, Slot, Stage, Trait

BITS = "width of the weights: int8 or float16"


def ctranslate_facts(*kinds: Kind) -> Facts:
    """They take float weights out of a torch model and put another object in its place."""
    return Facts(
        family=Family.COMPILER,
        stage=Stage.COMPILE,
        persist=Persist.WEIGHTS,
        occupies={Slot.RUNTIME},
        needs={Trait.TORCH_FORWARD, Trait.FLOAT_WEIGHTS},
        removes={Trait.TORCH_FORWARD, Trait.TORCH_MODULE},
        kinds=set(kinds),
        devices=("cpu", "cuda"),
        extra="ctranslate2",
        packages=("ctranslate2",),
    )
