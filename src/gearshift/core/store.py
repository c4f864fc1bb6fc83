"""The only save: safetensors and JSON with a manifest of hashes, put in the old folder's place in one step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gearshift.core.boundary import Misfit, reading
from gearshift.core.errors import BrokenFolder, GearshiftError, quoted
from gearshift.core.facts import Persist
from gearshift.core.files import place_of, replacing_folder
from gearshift.core.manifest import FORMAT, KEPT, MANIFEST, sha256
from gearshift.core.model import Runtime, parts
from gearshift.core.plain import dict_of, parse_json, text
from gearshift.core.record import Record, record_of
from gearshift.core.transaction import Transaction

WEIGHTS = "gearshift.safetensors"
LIBRARIES = ("diffusers", "transformers", "gearshift")


def save(model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a model and everything that was done to it.

    The folder holds the library's own layout (model_index.json, config.json, tokenizer, ...), the weights in
    safetensors and gearshift.json, which names every file with its SHA-256. It takes the place of a folder that was
    saved there before in one step; files that gearshift did not write there stay.

    Raises:
        BrokenFolder: if the folder exists and was not written by gearshift, or the disk does not take it; what was
            there before still is.
    """
    target = place_of(folder, "A folder to save into")
    refuse_foreign(target)
    if _name_of(type(model)).partition(":")[0] not in LIBRARIES:
        raise GearshiftError(
            f"{type(model).__module__}.{type(model).__name__} cannot be saved: loading it would run code from outside "
            f"of {', '.join(LIBRARIES)}. Save its state dict yourself, and optimize it after loading."
        )
    (record_of(model) or Record()).refuse_lifted("saved")
    with replacing_folder(target, _ours) as scratch:
        _write(model, scratch)
    return target


def refuse_foreign(target: Path) -> None:
    """Raise BrokenFolder if something that gearshift did not write is there."""
    if os.path.lexists(target) and (not target.is_dir() or _ours(target) is None):
        raise BrokenFolder(f"{target} exists and was not saved by gearshift; choose another folder.")


def _ours(folder: Path) -> set[str] | None:
    """The files in a folder that a save replaces; None for a folder that is somebody else's."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None if any(folder.iterdir()) else set()
    try:
        return {MANIFEST, *json.loads(manifest.read_text())["files"]}
    except (ValueError, KeyError, TypeError):  # damaged: whatever lies where saved models have their files
        return {p.relative_to(folder).as_posix() for p in _files(folder) if p.suffix in (".json", ".safetensors")}


def _write(model: Any, folder: Path) -> None:
    """The model, then what is to be known of it: a folder without a manifest is none of ours."""
    record = record_of(model) or Record()
    changed = _write_model(model, record, folder)
    _write_files(record, folder)
    manifest = {
        "format": FORMAT,
        "model": _name_of(type(model)),
        "changed": changed,
        "applied": [{"name": a.algorithm.name, "params": a.algorithm.values(), **_kept(a)} for a in record.applied],
        "settings": record.settings,
        "dtypes": {n: d for n, m in parts(model).items() if n not in changed and (d := _dtype(m))},
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in _files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def read_weights(file: Path) -> dict[str, Any]:
    """A state dict, names that shared one tensor included.

    Raises:
        BrokenFolder: for a file that is not there, damaged, or no safetensors.
    """
    from safetensors import safe_open

    with reading(file, "weights"):
        with safe_open(str(file), framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            shared = parse_json((opened.metadata() or {}).get("shared", "{}"), dict_of(text()))
        absent = next((name for name in shared.values() if name not in state), None)
        if absent is not None:
            raise Misfit(f"it lacks {quoted(absent)}, which another name shares")
        return state | {name: state[same] for name, same in shared.items()}


def write_weights(module: Any, file: Path) -> None:
    """A module's state dict; a tensor that has several names is written once."""
    from safetensors.torch import save_file

    state: dict[str, Any] = {}
    shared: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, tensor in module.state_dict().items():
        if getattr(tensor, "derived", False):  # computed from others that are written
            continue
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if key in seen:
            shared[name] = seen[key]
        else:
            seen[key] = name
            state[name] = tensor.detach().cpu().contiguous()
    save_file(state, str(file), metadata={"format": "pt", "shared": json.dumps(shared)})


def _write_files(record: Record, folder: Path) -> None:
    for applied in record.applied:
        for name, path in applied.files.items():
            place = folder / KEPT / applied.algorithm.name / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _write_model(model: Any, record: Record, folder: Path) -> list[str]:
    """Write the model in its library's layout; returns the parts whose weights are in our own file instead."""
    keeps_weights = [a for a in record.applied if type(a.algorithm).facts.persist is Persist.WEIGHTS]
    first_replayed = len(keeps_weights)
    if [type(a.algorithm).facts.persist for a in record.applied[:first_replayed]] != [Persist.WEIGHTS] * first_replayed:
        raise GearshiftError("algorithms that change weights come before those that are replayed")
    if isinstance(model, Runtime):
        model.save_pretrained(folder)
        return []
    changed = sorted({name for a in keeps_weights for name in a.saved.get("parts", [])})
    found = parts(model)
    with Transaction(model, keep=False):
        record.lift(down_to=first_replayed, exact=False)
        if "" in found:
            _write_part(model, folder, "" in changed)
        else:
            _write_pipeline(model, folder, {n: found[n] for n in changed})
    return changed


def _write_pipeline(pipe: Any, folder: Path, changed: dict[str, Any]) -> None:
    for name, component in pipe.components.items():
        if component is None or not hasattr(component, "save_pretrained"):
            continue
        place = folder / name
        if name in parts(pipe):
            place.mkdir()
            _write_part(component, place, name in changed)
        else:
            component.save_pretrained(str(place))
    pipe.save_config(str(folder))


def _write_part(module: Any, folder: Path, changed: bool) -> None:
    if not hasattr(module, "save_pretrained"):
        raise GearshiftError(
            f"{type(module).__name__} has no save_pretrained, so a saved folder could not make it again; "
            "save its state dict yourself, and optimize it after loading."
        )
    if not changed:
        module.save_pretrained(str(folder), safe_serialization=True)
        return
    if hasattr(module, "save_config"):
        module.save_config(str(folder))
    else:
        module.config.save_pretrained(str(folder))
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.save_pretrained(str(folder))
    write_weights(module, folder / WEIGHTS)


def _dtype(module: Any) -> str | None:
    first = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    return str(first).removeprefix("torch.") if first is not None else None


def _kept(applied: Any) -> dict[str, Any]:
    kept = {"saved": applied.saved, "notes": applied.notes, "figures": applied.figures}
    return {**kept, "files": list(applied.files)} if applied.files else kept


def _name_of(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}:{cls.__name__}"


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.is_file())
