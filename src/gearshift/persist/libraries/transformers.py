"""Models of transformers, and its tokenizers and processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from gearshift.persist.libraries.base import Library

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # how transformers is asked for files


class Transformers(Library):
    """A configuration of its own class beside the weights, and one of how it generates."""

    local: ClassVar = LOCAL

    def write_config(self, module: Any, folder: Path) -> None:
        module.config.save_pretrained(str(folder))
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.save_pretrained(str(folder))

    def make(self, cls: Any, folder: Path) -> Any:
        made = cls(cls.config_class.from_pretrained(folder, local_files_only=True))
        if (folder / "generation_config.json").is_file():
            made.generation_config = type(made.generation_config).from_pretrained(folder, local_files_only=True)
        return made

    def dtype(self, wanted: Any) -> dict[str, Any]:
        return {"dtype": wanted}
