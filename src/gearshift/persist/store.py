"""The only save: safetensors and JSON with a manifest of hashes, put in the old folder's place in one step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gearshift.core.adapters import aside
from gearshift.core.errors import BadValue, BrokenFolder, GearshiftError, quoted
from gearshift.core.facts import Persist
from gearshift.core.files import place_of, replacing_folder
from gearshift.core.model import Runtime, parts
from gearshift.core.plain import fields
from gearshift.core.record import Applied, Record, record_of
from gearshift.core.transaction import Transaction
from gearshift.persist.adapter_files import keep_adapters, write_adapters
from gearshift.persist.classes import LIBRARIES
from gearshift.persist.component import write_module
from gearshift.persist.formats import FORMAT, KEPT
from gearshift.persist.libraries.diffusers import FUSED, write_pipeline
from gearshift.persist.made_with import made_with
from gearshift.persist.manifest import MANIFEST, sha256
from gearshift.persist.readers import write_readers


def save(model: Any, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a model and everything that was done to it.

    The folder holds the library's own layout (model_index.json, config.json, tokenizer, ...), the weights in
    safetensors and gearshift.json, which names every file with its SHA-256. It takes the place of a folder that was
    saved there before in one step; files that gearshift did not write there stay.

    Raises:
        BrokenFolder: if the folder exists and was not written by gearshift, or the disk does not take it; what was
            there before still is.
    """
    target = place_of(folder, "A folder to save into")
    if not isinstance(overwrite, bool):
        raise BadValue(f"overwrite must be True or False. Got {quoted(overwrite)} instead.")
    refuse_foreign(target, overwrite)
    if _name_of(type(model)).partition(":")[0] not in LIBRARIES:
        raise GearshiftError(
            f"{type(model).__module__}.{type(model).__name__} cannot be saved: loading it would run code from outside "
            f"of {', '.join(LIBRARIES)}. Save its state dict yourself, and optimize it after loading."
        )
    (record_of(model) or Record()).refuse_disabled("saved")
    with replacing_folder(target, None if overwrite else _ours) as scratch:
        _write(model, scratch)
    return target


def refuse_foreign(target: Path, overwrite: bool = False) -> None:
    """Raise BrokenFolder if something that gearshift did not write is there; always for a file or a home folder."""
    if not os.path.lexists(target):
        return
    if not target.is_dir() or (overwrite and Path.home().is_relative_to(target)):
        raise BrokenFolder(f"{target} exists and is no folder that can be replaced; choose another one.")
    if not overwrite and _ours(target) is None:
        raise BrokenFolder(
            f"{target} exists and was not saved by gearshift; choose another folder, or overwrite it, which deletes "
            "what is in it."
        )


def _ours(folder: Path) -> set[str] | None:
    """The files in a folder that a save replaces; None for a folder that is somebody else's."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None if any(folder.iterdir()) else set()
    try:
        return {MANIFEST, *json.loads(manifest.read_text())["files"]}
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # damaged: whatever lies where saved models have their files
        return {p.relative_to(folder).as_posix() for p in _files(folder) if p.suffix in (".json", ".safetensors")}


def _write(model: Any, folder: Path) -> None:
    """The model, then what is to be known of it: a folder without a manifest is none of ours."""
    record = record_of(model) or Record()
    changed, facts = _write_model(model, record, folder)
    _write_files(record, folder)
    manifest = {
        "format": FORMAT,
        "made_with": made_with(),
        "model": _name_of(type(model)),
        "changed": changed,
        "applied": [{"name": a.algorithm.name, "params": a.algorithm.values(), **_kept(a)} for a in record.applied],
        "settings": record.settings,
        "tensors": facts,
        "readers": write_readers(model, record.readers, folder),
        "fused": sorted(getattr(model, FUSED, ())),
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in _files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _write_files(record: Record, folder: Path) -> None:
    for applied in record.applied:
        for name, path in applied.files.items():
            place = folder / KEPT / applied.algorithm.name / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _write_model(model: Any, record: Record, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Write the model in its library's layout; gives the parts whose weights are in our own file, and facts of each."""
    baked = first_replayed(record)
    if isinstance(model, Runtime):
        model.save_pretrained(folder)
        return [], {}
    changed = sorted({name for a in record.applied[:baked] for name in a.saved.get("parts", [])})
    found = parts(model)
    with Transaction(model, keep=False):
        record.revert(down_to=baked, exact=False)
        adapters = {name: keep_adapters(part, type(part).__name__) for name, part in found.items()}
        with aside(found):
            if "" not in found:
                write_pipeline(model, folder)
            facts = {name: write_module(part, _made(folder / name), name in changed) for name, part in found.items()}
        for name, kept in adapters.items():
            if kept is not None:
                write_adapters(kept, folder / name)
    return changed, facts


def first_replayed(record: Record) -> int:
    """How many algorithms of a record changed weights; those after them are applied again to a loaded model."""
    changed = [type(a.algorithm).facts.persist is Persist.WEIGHTS for a in record.applied]
    if changed != sorted(changed, reverse=True):
        raise GearshiftError("algorithms that change weights come before those that are replayed")
    return sum(changed)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _kept(applied: Applied) -> dict[str, Any]:
    """What the manifest says of an algorithm besides its parameters.

    Raises:
        Misfit: for saved data of another shape than is declared, which loading would refuse.
    """
    name = applied.algorithm.name
    fields({}, applied.algorithm.saved_fields)(json.loads(json.dumps(applied.saved)), f"the data that {name} keeps")
    kept = {"saved": applied.saved, "notes": applied.notes, "figures": applied.figures}
    return {**kept, "files": list(applied.files)} if applied.files else kept


def _name_of(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}:{cls.__name__}"


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.is_file())
