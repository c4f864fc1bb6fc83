"""Every algorithm is tested by being there: its declaration, and the promises made for it."""

import json
from pathlib import Path

import pytest
from support.sources import none

from gearshift import Recipe
from gearshift.cli.listing import describe
from gearshift.core.errors import BadRecipe
from gearshift.core.param import Choices
from gearshift.core.registry import registry
from gearshift.core.rules import conflict

PROMISES = json.loads((Path(__file__).parent / "promises.json").read_text())
FACTS = {c.name: c.facts for c in registry()}
PARAMS = [(cls, name) for cls in registry() for name in cls.params()]


def refusal(cls, name, value):
    """What a class says about a value that it must not take; an empty text if it takes it."""
    try:
        cls.make({name: value})
    except BadRecipe as error:
        return str(error)
    return ""


def test_parameters_take_their_samples_and_refuse_the_others():
    tried, wrong = 0, []
    for cls, name in PARAMS:
        bound = cls.params()[name].bound
        for value in bound.samples():
            tried += 1
            if getattr(cls.make({name: value}), name) != value:
                wrong.append(f"{cls.name}({name}={value!r}) has another value")
        for value in (v for v in bound.outsiders() if not bound.admits(v)):
            tried += 1
            if f"'{name}' parameter of {cls.name} must be" not in refusal(cls, name, value):
                wrong.append(f"{cls.name}({name}={value!r}) is not refused in a sentence")
    none(wrong)
    assert tried > 500


def test_a_recipe_of_one_survives_every_form():
    recipes = [Recipe.of(cls.name) for cls in registry()]
    none(r for r in recipes if not r == Recipe.of(r.to_dict()) == Recipe.of(str(r)) == Recipe.of(Recipe.of(r)))
    none(cls.name for cls in registry() if json.loads(json.dumps(describe(cls)))["name"] != cls.name)


def kept(cls, wanted, got):
    """Whether a parameter is as promised: its default, and the choices or the range."""
    same = str(got["default"]) == str(wanted["default"])
    if isinstance(cls.params()[wanted["name"]].bound, Choices):
        return same and {*map(str, wanted["options"]["choices"])} <= {*map(str, got["choices"])}
    return same and got["range"] == wanted["options"]["range"]


def test_names_families_and_parameters_are_as_promised():
    assert PROMISES.keys() <= FACTS.keys()
    wrong = []
    for cls in (c for c in registry() if c.name in PROMISES):
        promise, entry = PROMISES[cls.name], {p["name"]: p for p in describe(cls)["params"]}
        wrong += [cls.name] * (describe(cls)["family"] != promise["family"])
        wrong += [f"{cls.name}({w['name']})" for w in promise["params"] if not kept(cls, w, entry[w["name"]])]
    none(wrong)


def test_the_rules_allow_every_promised_pair():
    pairs = [(a, b) for a, promise in PROMISES.items() for b in promise["compatible_with"]]
    assert len(pairs) > 300
    said = {(a, b): conflict((a, FACTS[a]), (b, FACTS[b])) for a, b in pairs}
    none(f"{a} and {b}: {reason}" for (a, b), reason in said.items() if reason is not None)


@pytest.mark.parametrize("family", ["cacher", "compiler", "batcher"])
def test_two_of_a_family_that_decides_one_thing_conflict(family):
    names = [n for n, f in FACTS.items() if f.family == family]
    assert len(names) > 1
    none((a, b) for a in names for b in names if a != b and not conflict((a, FACTS[a]), (b, FACTS[b])))
