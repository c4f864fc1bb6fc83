"""The house stays simple: arrows, budgets, names, imports."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gearshift
from gearshift.core.registry import registry
from gearshift.precision.levels import Precision

ROOT = Path(gearshift.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py"))
ROOMS = {"core", "persist", "kernels", "models", "steps", "precision", "planner", "runtimes", "training", "algorithms"}
ROOMS |= {"evaluate", "tune", "cli"}
MAY_IMPORT = {
    "core": set(),
    "persist": {"core"},
    "kernels": {"core"},
    "models": {"core", "kernels"},
    "steps": {"core", "kernels", "models", "precision"},
    "precision": {"core", "kernels", "models", "steps"},
    "planner": {"core", "kernels", "models", "steps", "precision"},
    "runtimes": {"core", "persist", "kernels", "models"},
    "training": {"core", "kernels", "models", "steps"},
    "algorithms": {"core", "persist", "kernels", "models", "steps", "precision", "planner", "runtimes", "training"},
}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "torchao"}


def tree(path):
    return ast.parse(path.read_text())


def imports(node):
    for n in ast.walk(node):
        if isinstance(n, ast.ImportFrom) and n.module:
            yield n.module
            yield from (f"{n.module}.{a.name}" for a in n.names)
        elif isinstance(n, ast.Import):
            yield from (a.name for a in n.names)


def room(path):
    return path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in MAY_IMPORT], ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below_them(path):
    used = {m.split(".")[1] for m in imports(tree(path)) if m.startswith("gearshift.")} & ROOMS
    allowed = MAY_IMPORT[room(path)] | {room(path)}
    if path.name == "registry.py":
        allowed |= {"algorithms"}  # it walks that folder
    assert used <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = len(ast.get_docstring(node, clean=False) or "").__bool__()
            body = node.body[1:] if docstring else node.body
            length = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert length <= 40, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in MAY_IMPORT and room(p) != "algorithms"], ids=str)
def test_no_algorithm_is_named_outside_its_own_file(path):
    options = {str(v) for c in registry() for p in c.params().values() for v in getattr(p.bound, "values", ())}
    also = {n.partition(".")[0] for c in registry() for n in (*c.facts.packages, c.facts.extra or "")}
    names = {c.name for c in registry()} - options - also - {p.value for p in Precision}  # packages and formats
    literals = {n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not names & literals


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "algorithms"], ids=lambda p: p.name)
def test_algorithms_import_nothing_heavy_at_the_top(path):
    top = [n for n in tree(path).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    used = {m.split(".")[0] for n in top for m in imports(n)}
    assert not used & HEAVY


def test_importing_and_listing_are_quick_and_import_no_torch():
    code = "import sys, gearshift; gearshift.algorithms(); assert not {'torch', 'diffusers'} & set(sys.modules)"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.5  # .2 s on a quiet machine; this only catches a heavy import that slipped in
