"""Every algorithm is tested by being there: its declaration, and the promises made for it."""

import json
from pathlib import Path

import pytest

from gearshift import Recipe
from gearshift.cli.listing import describe
from gearshift.core.errors import BadRecipe
from gearshift.core.param import Choices
from gearshift.core.registry import registry
from gearshift.core.rules import conflict

PROMISES = json.loads((Path(__file__).parent / "promises.json").read_text())
CLASSES = list(registry())
PARAMS = [(c, name) for c in CLASSES for name in c.params()]
FACTS = {c.name: c.facts for c in CLASSES}


def named(value):
    return getattr(value, "name", value)


@pytest.mark.parametrize(("cls", "name"), PARAMS, ids=lambda v: str(named(v)))
def test_a_parameter_takes_its_samples_and_refuses_the_others(cls, name):
    bound = cls.params()[name].bound
    for value in bound.samples():
        assert getattr(cls.make({name: value}), name) == value
    for value in bound.outsiders():
        if not bound.admits(value):
            with pytest.raises(BadRecipe, match=f"'{name}' parameter of {cls.name} must be"):
                cls.make({name: value})


@pytest.mark.parametrize("cls", CLASSES, ids=named)
def test_a_recipe_of_one_survives_every_form(cls):
    recipe = Recipe.of(cls.name)
    assert Recipe.of(recipe.to_dict()) == recipe
    assert json.loads(json.dumps(describe(cls)))["name"] == cls.name


@pytest.mark.parametrize("cls", [c for c in CLASSES if c.name in PROMISES], ids=named)
def test_parameters_are_as_promised(cls):
    promise, entry = PROMISES[cls.name], {p["name"]: p for p in describe(cls)["params"]}
    assert describe(cls)["family"] == promise["family"]
    for wanted in promise["params"]:
        got = entry[wanted["name"]]
        assert str(got["default"]) == str(wanted["default"])
        if isinstance(cls.params()[wanted["name"]].bound, Choices):
            assert {*map(str, wanted["options"]["choices"])} <= {*map(str, got["choices"])}
        else:
            assert got["range"] == wanted["options"]["range"]


def test_every_promised_name_is_here():
    assert PROMISES.keys() <= FACTS.keys()


@pytest.mark.parametrize(("one", "other"), [(a, b) for a, p in PROMISES.items() for b in p["compatible_with"]])
def test_the_rules_allow_every_promised_pair(one, other):
    assert conflict((one, FACTS[one]), (other, FACTS[other])) is None


@pytest.mark.parametrize("family", ["cacher", "compiler", "batcher"])
def test_two_of_a_family_that_decides_one_thing_conflict(family):
    names = [n for n, f in FACTS.items() if f.family == family]
    for a in names:
        assert all(conflict((a, FACTS[a]), (b, FACTS[b])) for b in names if a != b)
