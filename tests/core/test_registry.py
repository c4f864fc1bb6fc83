import pytest

from gearshift.core import registry as module
from gearshift.core.algorithm import Algorithm
from gearshift.core.errors import GearshiftWarning, UnknownName
from gearshift.core.facts import Facts, Family, Stage
from gearshift.core.registry import Registry, registry

FACTS = Facts(family=Family.PRUNER, stage=Stage.PRUNE)


def algorithm(name, **body):
    return type(name, (Algorithm,), {"__doc__": "One.", "facts": FACTS, "apply": lambda s, m, c: None, **body})


def test_names_come_from_class_names():
    assert algorithm("FooBar").name == "foo_bar"


def test_a_refused_class_leaves_the_registry_as_it_was():
    held = Registry()
    held.add(algorithm("One"))
    with pytest.raises(TypeError, match="both define"):
        held.add(algorithm("One"))
    with pytest.raises(TypeError, match="does not define apply"):
        held.add(algorithm("Two", apply=Algorithm.apply))
    assert [c.name for c in held] == ["one"]


@pytest.mark.parametrize(("body", "words"), [({"facts": None}, "no facts"), ({"__doc__": ""}, "docstring")])
def test_a_class_is_checked_when_it_is_made(body, words):
    with pytest.raises(TypeError, match=words):
        algorithm("Bad", **body)


def test_a_field_that_is_no_parameter_is_refused():
    with pytest.raises(TypeError, match=r"not declared with param"):
        algorithm("Bad", __annotations__={"x": int}, x=3)


def test_unknown_names_get_suggestions():
    with pytest.raises(UnknownName, match="did you mean 'deepcache'"):
        registry().get("depcache")


def test_a_family_is_found_by_its_former_name():
    assert Family("scheduler") is Family.PRECISION and Family.PRECISION.aliases == ["scheduler"]
    assert Family.PRUNER.aliases == []
    with pytest.raises(ValueError, match="'fast' is not a valid Family"):
        Family("fast")


class Point:
    """An entry point of another package."""

    def __init__(self, name, load):
        self.name, self.load = name, load


def test_algorithms_of_other_packages_join_by_their_entry_points(monkeypatch):
    asked = []

    def broken():
        raise ImportError("no module named there")

    def points(group):
        asked.append(group)
        return [Point("broken", broken), Point("elsewhere", lambda: algorithm("Elsewhere"))]

    monkeypatch.setattr(module, "entry_points", points)
    with pytest.warns(GearshiftWarning, match="The algorithm 'broken' was left out: no module named there"):
        filled = registry.__wrapped__()
    assert asked == [module.ENTRY_POINTS] and filled.get("elsewhere").facts is FACTS
    assert {c.name for c in registry()} == {c.name for c in filled} - {"elsewhere"}
