"""What is asked of every library whose models are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar


class Library(ABC):
    """How one library keeps its models in a folder. Nothing but the folder is read, and none of its files is run.

    Attributes:
        local: what its `from_pretrained` is given so that it reads nothing else.
    """

    local: ClassVar[dict[str, Any]]

    @abstractmethod
    def write_config(self, module: Any, folder: Path) -> None:
        """Write what `make` needs, without weights."""

    @abstractmethod
    def make(self, cls: Any, folder: Path) -> Any:
        """A module made from its configuration, with the values that a new one has."""

    @abstractmethod
    def dtype(self, wanted: Any) -> dict[str, Any]:
        """How `from_pretrained` is told the number format."""

    def read(self, cls: Any, folder: Path, wanted: Any) -> tuple[Any, dict[str, Any]]:
        """A module with its weights, and the names that are missing, of other shapes, or unexpected.

        Args:
            wanted: a torch dtype; None: as the library does it.
        """
        given = {} if wanted is None else self.dtype(wanted)
        told = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # in place of a library's own report
        module, found = cls.from_pretrained(folder, use_safetensors=True, **given, **self.local, **told)
        return module, found

    def read_other(self, cls: Any, folder: Path) -> Any:
        """A scheduler, tokenizer, processor or the like."""
        return cls.from_pretrained(folder, **self.local)

    def quantizes(self, module: Any) -> bool:
        """Whether the library quantized it while loading it, and does so again."""
        config = getattr(module, "config", None)
        found = config.get("quantization_config") if isinstance(config, dict) else None
        return (found or getattr(config, "quantization_config", None)) is not None
