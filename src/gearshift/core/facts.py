"""What an algorithm declares about itself; the rules derive order and compatibility from it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any


class Family(str, Enum):
    """What an algorithm does to a model. A family is also found by the names it had before."""

    BATCHER = "batcher"
    CACHER = "cacher"
    COMPILER = "compiler"
    DISTILLER = "distiller"
    ENHANCER = "enhancer"
    FACTORIZER = "factorizer"
    PRECISION = "precision"
    PRUNER = "pruner"
    QUANTIZER = "quantizer"
    RECOVERER = "recoverer"
    SCHEDULER = PRECISION

    @property
    def aliases(self) -> list[str]:
        """The names it had before."""
        return [old for old, new in FORMER_FAMILIES.items() if new == self.value]

    @classmethod
    def _missing_(cls, value: object) -> Family | None:
        return cls(FORMER_FAMILIES[value]) if value in FORMER_FAMILIES else None


FORMER_FAMILIES: dict[Any, str] = {"scheduler": "precision"}


class Stage(IntEnum):
    """When in a recipe an algorithm is applied; lower goes first."""

    PRUNE = 1
    DISTILL = 2
    FACTORIZE = 3
    QUANTIZE = 4
    RECOVER = 5
    STEPS = 6
    COMPILE = 7
    ENHANCE = 8
    BATCH = 9


class Slot(str, Enum):
    """A thing that only one algorithm of a recipe may write; the value says it in words."""

    STEP_SKIPPING = "which steps are computed"
    STEP_PRECISION = "the precision of each step"
    WEIGHT_FORMAT = "the number format of the weights"
    RUNTIME = "how the modules are executed"
    ADAPTER = "what is trained on top of the weights"
    IMAGE_SIZE = "the size of the images"
    BATCHING = "how inputs are batched"


class Trait(str, Enum):
    """Something a model has; an algorithm may need it, and may take it away. The value says it in words."""

    DENOISES = "a denoiser that gearshift can find"
    BLOCKS = "repeated transformer blocks or U-Net blocks"
    STACKS = "stacks of repeated transformer blocks"
    UNET = "a U-Net with down, middle and up blocks"
    IMAGES = "a pipeline that makes images"
    ATTENTION = "attention with separate query, key and value projections"
    LINEAR = "linear layers"
    FLOAT_WEIGHTS = "floating-point weights"
    TORCH_FORWARD = "a forward that runs in torch"
    TORCH_MODULE = "torch modules"


class Kind(str, Enum):
    """The kinds of model there are."""

    DIFFUSION = "a diffusion pipeline"
    LANGUAGE = "a language model"
    SPEECH = "a speech model"
    OTHER = "another torch module"


ANY_KIND = frozenset(Kind)


class Persist(str, Enum):
    """How a saved folder brings an algorithm back."""

    REPLAY = "applied again when the folder is loaded"
    WEIGHTS = "kept in the saved weights"


@dataclass(frozen=True)
class Facts:
    """An algorithm's declared facts.

    Attributes:
        occupies: slots that no other algorithm of the recipe may occupy.
        needs: traits the model must have when this algorithm's turn comes.
        removes: traits the model no longer has afterwards.
        kinds: kinds of model it can be applied to.
        devices: device types it runs on.
        dtypes: names of the arithmetic types it can work in; empty: any.
        refuses: other algorithms it cannot work with for a reason no fact expresses, with that reason.
        after: algorithms of the same stage that go before this one.
        extra: the pip extra that its optional packages are in.
        packages: import names of those packages.
    """

    family: Family
    stage: Stage
    persist: Persist = Persist.REPLAY
    occupies: Set[Slot] = frozenset()
    needs: Set[Trait] = frozenset()
    removes: Set[Trait] = frozenset()
    kinds: Set[Kind] = ANY_KIND
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    dtypes: Set[str] = frozenset()
    refuses: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    after: Set[str] = frozenset()
    extra: str | None = None
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("occupies", "needs", "removes", "kinds", "dtypes", "after"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))
        if not self.kinds or not self.devices:
            raise TypeError("facts must name at least one kind of model and one device")
        if bool(self.extra) != bool(self.packages):
            raise TypeError("facts name an extra and its packages together")
        if any(not reason.strip() for reason in self.refuses.values()):
            raise TypeError("a refusal needs its reason")
