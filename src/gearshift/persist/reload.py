"""Making a model again from a saved folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gearshift.core.boundary import reading
from gearshift.core.building import within_bounds
from gearshift.core.context import Context
from gearshift.core.devices import refuse_absent
from gearshift.core.errors import BrokenFolder, GearshiftError, told
from gearshift.core.facts import Persist
from gearshift.core.files import place_of, put_back
from gearshift.core.model import Runtime, parts
from gearshift.core.plain import fields
from gearshift.core.recipe import SAVED_SETTINGS, Recipe
from gearshift.core.record import Applied, Record, attach
from gearshift.core.scratch import locked_parent
from gearshift.core.target import Baked
from gearshift.persist.adapter_files import put_on
from gearshift.persist.classes import find_class
from gearshift.persist.component import fill, from_config, read_module
from gearshift.persist.exact import own, refuse_incomplete
from gearshift.persist.formats import kept_name
from gearshift.persist.libraries import library_of
from gearshift.persist.libraries.diffusers import FUSED, INDEX, read_pipeline
from gearshift.persist.made_with import other_versions
from gearshift.persist.manifest import MANIFEST, only_listed, read_manifest
from gearshift.persist.readers import read_readers

DATA = (".json", ".safetensors")  # files that are read; any other kind may hold code


def load(
    folder: str | os.PathLike[str], device: str | None = None, verify: bool = True, trust_compiled: bool = False
) -> Any:
    """The model of a folder that `save` wrote, with everything that was done to it.

    Args:
        device: where to put it; None: the CPU.
        verify: compare every file with its hash first. Hashes find damage; who wrote a folder can write any hash.
        trust_compiled: run the compiled code that the folder may hold; else it is compiled anew where it is needed.

    Raises:
        BrokenFolder: for a folder that is incomplete, altered, or not gearshift's; it names the file.
        BadValue: for a device that is not here.
    """
    root = place_of(folder, "A saved folder")
    refuse_absent(device)
    put_back(root)
    before = _identity(root)
    try:
        model = _load(root, device, verify, trust_compiled)
        if _identity(root) == before:
            return model
    except Exception:
        if _identity(root) == before:
            raise
    with locked_parent(root):  # another save took the folder's place meanwhile; the next one waits
        return _load(root, device, verify, trust_compiled)


def _identity(folder: Path) -> tuple[int, ...] | None:
    """What differs between a saved folder and another one that took its place."""
    try:
        place, manifest = folder.stat(), (folder / MANIFEST).stat()
    except OSError:
        return None
    return place.st_dev, place.st_ino, manifest.st_ino, manifest.st_mtime_ns


def _load(root: Path, device: str | None, verify: bool, trust_compiled: bool) -> Any:
    manifest = read_manifest(root, verify)
    try:
        with only_listed(root, manifest) as place, reading(root, "a saved model"):
            return _made(place, manifest, device, trust_compiled)
    except BrokenFolder as error:
        raise BrokenFolder(f"{error}{other_versions(manifest['made_with'])}") from error.__cause__


def _made(root: Path, manifest: dict[str, Any], device: str | None, trust_compiled: bool) -> Any:
    """The model of a folder whose files were checked."""
    algorithms = _algorithms(manifest, root)
    cls = find_class(manifest["model"], root)
    with within_bounds(root / name for name in manifest["files"]):
        if issubclass(cls, Runtime):
            return _runtime(cls, root, algorithms, manifest, device)
        if (root / INDEX).is_file():
            model = read_pipeline(cls, root, lambda name, its: _component(its, root, name, manifest))
        else:
            model = _component(cls, root, "", manifest)
    context = _context(manifest)
    weights = [a for a in algorithms if type(a.algorithm).facts.persist is Persist.WEIGHTS]
    for applied in weights:
        if not applied.algorithm.reversible:
            applied.changes.append(Baked(applied.algorithm.name))
        _again(applied, model, context, applied.algorithm.rebuild)
    for name, part in parts(model).items():
        facts = _facts(root, name, manifest)
        if name in manifest["changed"]:
            fill(part, root / name, facts)
        own(part, facts.get("strides", {}) if facts else {})
        refuse_incomplete(part, facts, root / name)
        put_on(part, root / name)
    context.record.readers = read_readers(manifest["readers"], root)
    for name, reader in context.record.readers.items():
        setattr(model, name, reader)
    if manifest["fused"]:
        setattr(model, FUSED, set(manifest["fused"]))
    if device is not None:
        model.to(device)
    for applied in algorithms[len(weights) :]:
        untrusted = [] if trust_compiled else [name for name in applied.files if Path(name).suffix not in DATA]
        applied.files = {name: file for name, file in applied.files.items() if name not in untrusted}
        _again(applied, model, context, applied.algorithm.apply)
        if untrusted:
            context.warn(
                f"{applied.algorithm.name} compiles anew: the folder's {len(untrusted)} files of compiled code would "
                "run as they are, which load(..., trust_compiled=True) allows."
            )
    attach(model, context.record)
    return model


def _component(cls: Any, root: Path, name: str, manifest: dict[str, Any]) -> Any:
    """A part with its weights; or, where algorithms changed its layers, as its configuration makes it, without."""
    import torch

    folder = root / name
    if name and not any(file.startswith(f"{name}/") for file in manifest["files"]):
        raise BrokenFolder(f"{root / MANIFEST} lists no file of {name}, which {INDEX} names.")
    if not issubclass(cls, torch.nn.Module):
        return library_of(cls).read_other(cls, folder)
    if name in manifest["changed"]:
        return from_config(cls, folder)
    return read_module(cls, folder, _facts(root, name, manifest), manifest["dtypes"].get(name))


def _facts(root: Path, name: str, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of a part's tensors; None: the folder is of a release that wrote nothing of them."""
    if manifest["tensors"] is None:
        return None
    if name not in manifest["tensors"]:
        raise BrokenFolder(f"{root / MANIFEST} says nothing of the tensors of {name or 'the model'}.")
    return manifest["tensors"][name]


def _context(manifest: dict[str, Any]) -> Context:
    settings = {k: v for k, v in manifest["settings"].items() if k in SAVED_SETTINGS}
    return Context(Recipe(**settings), Record(settings=settings), loading=True)


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


def _algorithms(manifest: dict[str, Any], root: Path) -> list[Applied]:
    """What is to be applied again, from the manifest's plain data."""
    found = []
    for number, entry in enumerate(manifest["applied"]):
        try:
            (algorithm,) = Recipe.of({entry["name"]: entry["params"]}).algorithms
        except (GearshiftError, KeyError, TypeError) as error:
            raise BrokenFolder(
                f"{root / MANIFEST} has a recipe that cannot be carried out here: {told(error)}"
            ) from None
        with reading(root / MANIFEST, "a manifest"):
            fields({}, algorithm.saved_fields)(entry["saved"], f"applied[{number}].saved")
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
