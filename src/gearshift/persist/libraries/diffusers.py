"""Models and schedulers of diffusers, and its pipelines: an index of components, each in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from gearshift.core.boundary import reading
from gearshift.core.errors import GearshiftError
from gearshift.core.model import parts
from gearshift.core.plain import anything, dict_of, maybe, read_json
from gearshift.persist.classes import find_class
from gearshift.persist.formats import CLASS
from gearshift.persist.libraries.base import Library

INDEX = "model_index.json"
FUSED = "_merged_adapters"  # where a pipeline has the names of adapters that are merged into the weights


class Diffusers(Library):
    """A module's configuration is a dict that its class reads by itself."""

    local: ClassVar = {"local_files_only": True}

    def write_config(self, module: Any, folder: Path) -> None:
        module.save_config(str(folder))

    def make(self, cls: Any, folder: Path) -> Any:
        return cls.from_config(cls.load_config(folder, local_files_only=True))

    def dtype(self, wanted: Any) -> dict[str, Any]:
        release = tuple(int(n) for n in re.findall(r"\d+", version("diffusers"))[:2])
        return {"torch_dtype" if release < (0, 42) else "dtype": wanted}


def read_index(root: Path) -> dict[str, list[str | None]]:
    """Library and class of each component of a pipeline's folder; none of either where there is no component.

    Raises:
        BrokenFolder: for a model_index.json that names its own class by anything but a string.
    """
    path = root / INDEX
    with reading(path, "the index of a pipeline"):
        index = read_json(path, dict_of(anything))
        CLASS(index.get("_class_name"), "_class_name")
        pairs = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and not k.startswith("_")}
        named = {k: v for k, v in pairs.items() if any(n is None or isinstance(n, str) for n in v)}
        return {k: [maybe(CLASS)(n, k) for n in v] for k, v in named.items()}


def component_classes(root: Path) -> dict[str, type | None]:
    """The class of each component of a pipeline's folder, None where there is none; nothing else is loaded."""
    named = read_index(root)
    return {n: None if cls is None else find_class(f"{library}:{cls}", root) for n, (library, cls) in named.items()}


def write_pipeline(pipe: Any, folder: Path) -> None:
    """What a pipeline has besides its modules: an index of its components, the scheduler, tokenizers and the like."""
    pipe.save_config(str(folder))
    component_classes(folder)  # or a folder would be written that cannot be loaded
    found = parts(pipe)
    for name, component in pipe.components.items():
        if component is None or name in found:
            continue
        if not hasattr(component, "save_pretrained"):
            raise GearshiftError(f"The pipeline cannot be saved: its {name} has no save_pretrained.")
        component.save_pretrained(str(folder / name))


def read_pipeline(cls: Any, root: Path, read: Callable[[str, Any], Any]) -> Any:
    """A pipeline of components that are each loaded by themselves, so that nothing else is.

    Args:
        read: gives the component of a name and a class.
    """
    named = component_classes(root).items()
    components = {name: None if its is None else read(name, its) for name, its in named}
    local = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    return cls.from_pretrained(root, **components, **local)
