"""The drawing in docs/house.md is the tree; its arrows are those that are checked."""

import re

from support.sources import ROOT, TESTS, TREES, none, room
from test_arrows import MAY_IMPORT

HOUSE = (TESTS.parent / "docs" / "house.md").read_text()
DRAWING, ARROWS = re.findall(r"```\n(.*?)```", HOUSE, re.DOTALL)


def drawn():
    """Paths beneath src/gearshift that the drawing names; those of folders end with a slash."""
    found, above = set(), []
    for line in DRAWING.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        above[depth:] = [line.split()[0]]
        found.add("".join(above))
    return found


def test_every_folder_is_drawn_and_what_is_drawn_is_there():
    folders = {f"{p.relative_to(ROOT).as_posix()}/" for path in TREES for p in path.parents if ROOT in p.parents}
    none(f"{name} is not drawn" for name in folders - drawn())
    none(f"{name} is not there" for name in drawn() if not (ROOT / name).exists())


def test_files_beside_the_folders_are_drawn():
    none({p.name for p in ROOT.glob("*.py") if not p.name.startswith("__")} - drawn())


def test_arrows_go_down():
    levels = [line.split(", ") for line in ARROWS.splitlines()]
    level = {name: number for number, names in enumerate(levels) for name in names}
    none({room(path) for path in TREES} - {"__init__"} - level.keys())
    pairs = ((a, b) for a, below in MAY_IMPORT.items() for b in below if {a, b} <= level.keys())
    none(f"{a} may import {b}, which is above it" for a, b in pairs if level[b] < level[a])


def test_files_that_the_text_names_are_there():
    named = re.findall(r"`(\w+(?:/\w+)+\.py)`", HOUSE.replace("`cachers/", "`algorithms/cachers/"))
    assert len(named) > 8
    none(name for name in named if not (ROOT / name).exists())
