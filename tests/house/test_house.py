"""The house stays simple: budgets of lines, and one name for one thing."""

import ast

from support.sources import ROOT, TREES, definitions, module, none, room, short

from gearshift.core.registry import registry
from gearshift.precision.levels import Precision

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ANYWHERE = {"algorithms", "zoo", "cli"}  # rooms that may name algorithms
SCRIPTS = ("zoo.train.", "cli")  # each stands for itself
ONE_FOR_EACH = (  # the same thing for each backend, format or family, or a verb and what does its work
    "available batch_param conv2d conv_reference dequantize encode epochs_param export evaluate linear "
    "linear_reference load open optimizer_param pack read_checkpoint save takes to_json tune unpack warm_up"
)
STILL_TWICE = (  # names of two things, to be told apart
    "Report Taylor grid kernels matrix missing multiply rounded spread sqnr usable"
)


def length(function):
    """Lines of a function below its head and its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_stay_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in TREES}
    none(f"{name}: {count} lines" for name, count in lines.items() if count > 300)


def test_functions_stay_short():
    functions = [(path, n) for path, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, FUNCTIONS)]
    assert len(functions) > 1000
    none(f"{short(module(path))}.{f.name}: {length(f)} lines" for path, f in functions if length(f) > 40)


def test_no_algorithm_is_named_outside_its_own_file():
    options = {str(v) for c in registry() for p in c.params().values() for v in getattr(p.bound, "values", ())}
    also = {n.partition(".")[0] for c in registry() for n in (*c.facts.packages, c.facts.extra or "")}
    names = {c.name for c in registry()} - options - also - {p.value for p in Precision}  # packages and formats
    found = []
    for path, tree in TREES.items():
        if room(path) not in ANYWHERE:
            literals = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            found += [f"{short(module(path))} names {name}" for name in names & literals]
    none(found)


def test_one_name_names_one_thing():
    twice = {name: [m for m in where if not m.startswith(SCRIPTS)] for name, where in definitions().items()}
    known = {*ONE_FOR_EACH.split(), *STILL_TWICE.split()}
    twice = {name: where for name, where in twice.items() if len(where) > 1}
    none(f"{name} is defined in {', '.join(where)}" for name, where in twice.items() if name not in known)


def test_folders_of_algorithms_hold_algorithms_only():
    homes = {cls.__module__ for cls in registry()}
    files = {module(p) for p in TREES if room(p) == "algorithms" and p.name != "__init__.py"}
    none(name for name in files - homes if not name.startswith("gearshift.algorithms.common."))
