"""Tests can fail: each asserts something, itself or through what it calls."""

import ast

from support.sources import TESTS, none

TREES = {path: ast.parse(path.read_text()) for path in sorted(TESTS.rglob("*.py"))}
FUNCTIONS = [(path, n) for path, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
STATE = {"raises", "warns", "deprecated_call", "assert_close", "fail"}  # pytest's, torch's and numpy's


def called(node):
    """The name of what a call calls; of `subprocess.run` only where it minds the exit code."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return "" if name == "run" and not any(k.arg == "check" for k in node.keywords) else name


def asserts(function):
    """Whether a function holds an assertion that says something: no bare constant."""
    stated = [n.test for n in ast.walk(function) if isinstance(n, ast.Assert)]
    return any(not isinstance(test, ast.Constant) for test in stated)


def test_every_test_asserts_something():
    helpers = {f.name for _, f in FUNCTIONS if asserts(f) and not f.name.startswith("test_")}
    assert "none" in helpers

    def can_fail(function):
        calls = {called(n) for n in ast.walk(function) if isinstance(n, ast.Call)}
        return asserts(function) or bool(calls & (STATE | helpers)) or "run" in calls

    tests = [(path, f) for path, f in FUNCTIONS if f.name.startswith("test_")]
    assert len(tests) > 500
    none(f"{path.relative_to(TESTS)}::{f.name}" for path, f in tests if not can_fail(f))


def test_names_of_test_files_differ():
    """Without packages, pytest knows a test file by its name alone."""
    names = [path.name for path in TREES if path.name.startswith("test_")]
    none(name for name in set(names) if names.count(name) > 1)


def test_what_is_fast_is_there():
    """The list behind the marker `fast` names folders and files that exist."""
    lists = [n for n in TREES[TESTS / "conftest.py"].body if isinstance(n, ast.Assign)]
    (fast,) = (ast.literal_eval(n.value) for n in lists if ast.unparse(n.targets[0]) == "FAST")
    assert len(fast) > 5
    none(place for place in fast if not (TESTS / place).exists())
