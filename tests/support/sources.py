"""The library's own files as trees: modules, who imports whom, where, and what names they define."""

import ast
from functools import cache
from pathlib import Path

import gearshift

ROOT = Path(gearshift.__file__).parent
TESTS = Path(__file__).parents[1]
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "torchao"}


def module(path):
    """The dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
MODULES = {module(path): path for path in TREES}


def room(path):
    """The folder of a file beneath gearshift, or the name of a file that lies beside the folders."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def short(name):
    return name.removeprefix("gearshift.")


def none(found):
    """Nothing was found; says every one that was."""
    found = sorted(map(str, found))
    assert not found, "\n".join(["", *found])


def imports(node, package=()):
    """The modules that one statement imports, by full names; `package` is what dots are relative to."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join([*above, *([node.module] if node.module else [])])
        for full in (f"{base}.{alias.name}" for alias in node.names):
            yield full if full in MODULES else base


def statements(body):
    """The statements that run when a module is imported, those beneath `if` and `try` too; not what only types need."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from statements([*node.body, *(n for h in node.handlers for n in h.body), *node.orelse])


def imported(path, nodes):
    """What these statements of a file import."""
    name = module(path).split(".")
    package = tuple(name if path.name == "__init__.py" else name[:-1])
    return {target for node in nodes for target in imports(node, package)} - {module(path)}


@cache
def at_the_top(path):
    return imported(path, statements(TREES[path].body))


@cache
def inside_functions(path):
    functions = (n for n in ast.walk(TREES[path]) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return imported(path, (n for f in functions for n in ast.walk(f)))


def reach(graph, start):
    """All that can be reached from a module, by one import or more."""
    found, rest = set(), [start]
    while rest:
        new = graph[rest.pop()] - found
        found |= new
        rest += new
    return found


def circles(graph):
    """Modules that import each other, in groups."""
    reached = {name: reach(graph, name) for name in graph}
    groups = {frozenset(o for o in reached[n] if n in reached[o]) for n in graph if n in reached[n]}
    return [sorted(map(short, group)) for group in groups]


TOP = {module(path): at_the_top(path) & MODULES.keys() for path in TREES}
ALL = {module(path): TOP[module(path)] | inside_functions(path) & MODULES.keys() for path in TREES}


@cache
def imports_torch(name):
    """Whether importing a module imports torch or another large library."""
    everything = {target for m in {name} | reach(TOP, name) for target in at_the_top(MODULES[m])}
    return bool({target.split(".")[0] for target in everything} & HEAVY)


def definitions():
    """Public functions and classes of modules, by name."""
    found = {}
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(short(module(path)))
    return found
