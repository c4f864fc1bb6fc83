import pytest
from support.each import each

from gearshift.core.facts import Facts, Family, Kind, Slot, Stage, Trait
from gearshift.core.rules import conflict, conflicts, order


def facts(stage=Stage.QUANTIZE, **given):
    return Facts(family=Family.QUANTIZER, stage=stage, **given)


PLAIN = ("plain", facts())
CASES = [
    (facts(occupies={Slot.RUNTIME}), facts(occupies={Slot.RUNTIME}), "both set how the modules are executed"),
    (
        facts(Stage.PRUNE, removes={Trait.LINEAR}),
        facts(Stage.QUANTIZE, needs={Trait.LINEAR}),
        "b needs linear layers, which a removes",
    ),
    (facts(kinds={Kind.SPEECH}), facts(kinds={Kind.LANGUAGE}), "no model is both"),
    (facts(devices=("cpu",)), facts(devices=("cuda",)), "no device serves both"),
    (facts(dtypes={"float16"}), facts(dtypes={"float32"}), "no type serves both"),
    (facts(refuses={"b": "they fight"}), facts(), "they fight"),
]


@each(("one", "other", "words"), CASES)
def test_each_rule_gives_its_reason_from_both_sides(one, other, words):
    assert words in conflict(("a", one), ("b", other))
    assert conflict(("a", one), ("b", other)) == conflict(("b", other), ("a", one))


@each(("one", "other", "words"), CASES)
def test_a_plain_algorithm_goes_with_each_of_them(one, other, words):
    assert conflicts([("a", one), PLAIN]) == []


def test_a_trait_taken_away_later_does_not_matter():
    early, late = facts(Stage.PRUNE, needs={Trait.LINEAR}), facts(Stage.QUANTIZE, removes={Trait.LINEAR})
    assert conflict(("a", early), ("b", late)) is None


def test_order_is_stage_then_after_then_as_given():
    named = [
        ("compile", facts(Stage.COMPILE)),
        ("second", facts(after={"first"})),
        ("other", facts()),
        ("first", facts()),
        ("prune", facts(Stage.PRUNE)),
    ]
    assert order(named) == ["prune", "other", "first", "second", "compile"]


def test_a_circle_is_told_with_its_path():
    with pytest.raises(ValueError, match=r"a > b > a|b > a > b"):
        order([("a", facts(after={"b"})), ("b", facts(after={"a"}))])


def test_the_same_name_twice_is_a_conflict():
    assert conflict(PLAIN, PLAIN) == "plain is in the recipe twice; use it once."


@pytest.mark.parametrize("given", [{"kinds": frozenset()}, {"devices": ()}, {"extra": "x"}, {"refuses": {"x": " "}}])
def test_facts_without_sense_are_refused(given):
    with pytest.raises(TypeError):
        facts(**given)
