"""Folders saved by each release load for ever: the same tensors bit for bit, the same recipe, and the model runs."""

import json
import warnings
from pathlib import Path

import pytest
from support.hashes import recipe, tensors

import gearshift as gs
from gearshift.core.errors import GearshiftWarning

HERE = Path(__file__).parent
FOLDERS = sorted(p.parent for p in HERE.glob("*/*/gearshift.json"))


def with_newer_defaults(entry):
    """A recipe's entry as it was saved, and the defaults of parameters that came after it."""
    return {**entry, "params": {**gs.api.algorithms()[entry["name"]]().values(), **entry["params"]}}


def test_there_are_folders_of_a_release():
    assert len(FOLDERS) >= 10


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_a_release_s_folder_loads_bit_for_bit(folder):
    expected = json.loads(folder.with_suffix(".json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # layers may be slow on this machine
        model = gs.load(folder)
    assert tensors(model) == expected["tensors"]
    assert recipe(model) == [with_newer_defaults(entry) for entry in expected["recipe"]]
    saved = json.loads((folder / "gearshift.json").read_text())["applied"]
    for before, now in zip(saved, gs.status(model).applied, strict=True):
        assert before["figures"].keys() <= now["figures"].keys()
