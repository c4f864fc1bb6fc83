"""Making a model again from a saved folder."""

from __future__ import annotations

import importlib
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gearshift.core.boundary import reading
from gearshift.core.building import within_bounds
from gearshift.core.context import Context
from gearshift.core.devices import refuse_absent
from gearshift.core.errors import BrokenFolder, GearshiftError, told
from gearshift.core.extras import installed, need
from gearshift.core.facts import Persist
from gearshift.core.files import place_of, put_back
from gearshift.core.manifest import INDEX, MANIFEST, kept_name, only_listed, read_index, read_manifest
from gearshift.core.model import Runtime, parts
from gearshift.core.recipe import SAVED_SETTINGS, Recipe
from gearshift.core.record import Applied, Record, attach
from gearshift.core.scratch import locked_parent
from gearshift.core.store import LIBRARIES, WEIGHTS, read_weights
from gearshift.core.target import Baked


def load(folder: str | os.PathLike[str], device: str | None = None, verify: bool = True) -> Any:
    """The model of a folder that `save` wrote, with everything that was done to it.

    Args:
        device: where to put it; None: the CPU.
        verify: compare every file with its hash first.

    Raises:
        BrokenFolder: for a folder that is incomplete, altered, or not gearshift's; it names the file.
        BadValue: for a device that is not here.
    """
    root = place_of(folder, "A saved folder")
    refuse_absent(device)
    put_back(root)
    before = _identity(root)
    try:
        model = _load(root, device, verify)
        if _identity(root) == before:
            return model
    except Exception:
        if _identity(root) == before:
            raise
    with locked_parent(root):  # another save took the folder's place meanwhile; the next one waits
        return _load(root, device, verify)


def _identity(folder: Path) -> tuple[int, ...] | None:
    """What differs between a saved folder and another one that took its place."""
    try:
        place, manifest = folder.stat(), (folder / MANIFEST).stat()
    except OSError:
        return None
    return place.st_dev, place.st_ino, manifest.st_ino, manifest.st_mtime_ns


def _load(root: Path, device: str | None, verify: bool) -> Any:
    manifest = read_manifest(root, verify)
    files = (root / name for name in manifest["files"])
    with only_listed(root, manifest) as place, reading(root, "a saved model"), within_bounds(files):
        return _made(place, manifest, device)


def _made(root: Path, manifest: dict[str, Any], device: str | None) -> Any:
    """The model of a folder whose files were checked."""
    algorithms = _algorithms(manifest, root)
    cls = find_class(manifest["model"], root)
    changed = manifest["changed"]
    dtypes = {name: _dtype(name_) for name, name_ in manifest["dtypes"].items()}
    if issubclass(cls, Runtime):
        return _runtime(cls, root, algorithms, manifest, device)
    if hasattr(cls, "save_pretrained") and (root / INDEX).is_file():
        classes = _component_classes(root)
        overrides = {name: _skeleton(classes[name], root / name) for name in changed}
        absent = dict.fromkeys(name for name, c in classes.items() if c is None)
        given = {_dtype_keyword("diffusers"): dtypes, **overrides, **absent}
        model = cls.from_pretrained(root, **given)  # type: ignore[attr-defined]
    elif changed:
        model = _skeleton(cls, root)
    else:
        given = {_dtype_keyword(manifest["model"].partition(":")[0]): dtypes[""]} if dtypes else {}
        model = cls.from_pretrained(root, **given)  # type: ignore[attr-defined]
    context = _context(manifest)
    weights = [a for a in algorithms if type(a.algorithm).facts.persist is Persist.WEIGHTS]
    for applied in weights:
        if not applied.algorithm.reversible:
            applied.changes.append(Baked(applied.algorithm.name))
        _again(applied, model, context, applied.algorithm.rebuild)
    for name in changed:
        _fill(parts(model)[name], root / name / WEIGHTS)
    for part in parts(model).values():
        _own(part)
    if device is not None:
        model.to(device)
    for applied in algorithms[len(weights) :]:
        _again(applied, model, context, applied.algorithm.apply)
    attach(model, context.record)
    return model


def _context(manifest: dict[str, Any]) -> Context:
    settings = {k: v for k, v in manifest["settings"].items() if k in SAVED_SETTINGS}
    return Context(Recipe(**settings), Record(settings=settings))


def _runtime(cls: Any, root: Path, algorithms: list[Applied], manifest: dict[str, Any], device: str | None) -> Any:
    """A runtime brings back what was done to it by itself; only the record is put on it."""
    model = cls.from_pretrained(root)
    if device is not None:
        model.to(device)
    record = _context(manifest).record
    for applied in algorithms:
        applied.changes.append(Baked(applied.algorithm.name))
        record.insert(len(record.applied), applied)
    attach(model, record)
    return model


def find_class(name: str, folder: Path) -> type:
    """A model class by its full name, from the libraries whose models gearshift loads and from nowhere else.

    Raises:
        BrokenFolder: for any other module, or a class that is not there.
    """
    library, _, cls = name.partition(":")
    module = _library(library)
    if module is None:
        raise BrokenFolder(f"{folder} names a class of {library!r}; only {', '.join(LIBRARIES)} are loaded.")
    try:
        found = getattr(module, cls)
    except (ImportError, AttributeError) as error:
        raise BrokenFolder(f"{folder} needs {library}.{cls}, which is not available here: {error}") from None
    if not isinstance(found, type) or not hasattr(found, "from_pretrained"):
        raise BrokenFolder(f"{folder} names {name!r}, which is not a model class.")
    return found


def _library(name: str) -> Any:
    """A library whose models are loaded, or a module of a pipeline of diffusers', which it names so; else None."""
    if name in LIBRARIES:
        return need(name, name, "Loading a saved model")
    pipelines = importlib.import_module("diffusers.pipelines") if installed("diffusers") else None
    return getattr(pipelines, name) if name in dir(pipelines) else None


def _algorithms(manifest: dict[str, Any], root: Path) -> list[Applied]:
    """What is to be applied again, from the manifest's plain data."""
    found = []
    for entry in manifest["applied"]:
        try:
            (algorithm,) = Recipe.of({entry["name"]: entry["params"]}).algorithms
        except (GearshiftError, KeyError, TypeError) as error:
            raise BrokenFolder(
                f"{root / MANIFEST} has a recipe that cannot be carried out here: {told(error)}"
            ) from None
        files = {name: root / kept_name(algorithm.name, name) for name in entry.get("files", [])}
        notes, figures = list(entry.get("notes", [])), entry["figures"]
        found.append(Applied(algorithm, notes=notes, figures=figures, saved=entry["saved"], files=files))
    return found


def _again(applied: Applied, model: Any, context: Context, how: Any) -> None:
    context.saved, context.files, context.applied = dict(applied.saved), dict(applied.files), applied
    told, applied.notes = applied.notes, []
    how(model, context)
    applied.notes = applied.notes or told
    context.record.insert(len(context.record.applied), applied)


def _component_classes(root: Path) -> dict[str, type | None]:
    """The class of each component of a pipeline's folder, None where there is none; nothing else is loaded."""
    named = read_index(root)
    return {n: None if cls is None else find_class(f"{library}:{cls}", root) for n, (library, cls) in named.items()}


def _skeleton(cls: Any, folder: Path) -> Any:
    """A module made from its configuration, its parameters without storage and its buffers as they are made."""
    accelerate = need("accelerate", "diffusers", "Loading a model whose weights were changed")
    with accelerate.init_empty_weights(include_buffers=False):
        if hasattr(cls, "from_config"):
            return cls.from_config(cls.load_config(folder)).eval()
        made = cls(cls.config_class.from_pretrained(folder)).eval()
    if (folder / "generation_config.json").is_file():
        made.generation_config = type(made.generation_config).from_pretrained(folder)
    return made


def _own(module: Any) -> None:
    """Copy weights out of the mapped file: how memory is aligned can decide the last bits of a matrix product."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _fill(module: Any, file: Path) -> None:
    state = read_weights(file)
    try:
        missing, extra = module.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise BrokenFolder(f"{file} does not fit the model: {' '.join(str(error).split())}") from None
    if missing or extra:
        raise BrokenFolder(f"{file} does not fit the model: {len(missing)} tensors missing, {len(extra)} too many.")
    if hasattr(module, "tie_weights"):
        module.tie_weights()


def _dtype_keyword(library: str) -> str:
    """How `from_pretrained` is told the number format; diffusers renamed it in 0.42."""
    release = tuple(int(n) for n in re.findall(r"\d+", version(library))[:2])
    return "torch_dtype" if library == "diffusers" and release < (0, 42) else "dtype"


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
