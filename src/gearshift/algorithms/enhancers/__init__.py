"""Make the pipeline's images better after they are made."""

from __future__ import annotations

from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait


def enhancer_facts(*slots: Slot, after: frozenset[str] = frozenset()) -> Facts:
    """What every enhancer declares."""
    return Facts(
        family=Family.ENHANCER,
        stage=Stage.ENHANCE,
        occupies=set(slots),
        needs={Trait.DENOISES, Trait.IMAGES},
        kinds={Kind.DIFFUSION},
        after=after,
    )
