import pytest
from support.each import each

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe, BadValue
from gearshift.core.facts import Facts, Family, Stage
from gearshift.core.param import Choices, Range, param


class Sample(Algorithm):
    """A sample."""

    facts = Facts(family=Family.PRUNER, stage=Stage.PRUNE)
    share: float = param(0.5, between=(0.0, 1.0), help="a share")
    count: int = param(2, between=(1, 9), help="a count")
    mode: str = param("a", choices=("a", "b"), help="a mode")
    flag: bool = param(False, choices=(True, False), help="a flag")

    def apply(self, model, context: Context) -> None:
        pass


@each(
    ("values", "words"),
    [
        ({"share": 1.5}, "'share' parameter of sample must be a number in the range [0.0, 1.0]. Got 1.5"),
        ({"share": float("nan")}, "'share'"),
        ({"count": 2.0}, "an int in the range [1, 9]"),
        ({"count": True}, "Got True"),
        ({"mode": "c"}, "one of 'a', 'b'"),
        ({"flag": 1}, "one of True, False"),
        ({"moed": "b"}, "did you mean 'mode'?"),
    ],
)
def test_a_bad_value_is_one_sentence(values, words):
    with pytest.raises(BadRecipe) as caught:
        Sample.make(values)
    assert words in str(caught.value)
    assert len(caught.value.problems) == 1


def test_every_fault_is_reported_at_once():
    with pytest.raises(BadRecipe) as caught:
        Sample.make({"share": 2, "cuont": 3})
    assert "'share'" in str(caught.value) and "did you mean 'count'" in str(caught.value)


def test_an_instance_is_frozen_and_compares_by_value():
    assert Sample(count=3) == Sample(count=3) != Sample(count=4)
    with pytest.raises(AttributeError):
        Sample().count = 3  # type: ignore[misc]


@pytest.mark.parametrize("bound", [Choices((1, 2, True)), Range(0, 5, whole=True), Range(0.0, 1.0, whole=False)])
def test_a_bound_admits_its_samples_and_none_of_its_outsiders(bound):
    assert all(bound.admits(v) for v in bound.samples())
    outsiders = [v for v in bound.outsiders() if v not in bound.samples() or isinstance(v, bool)]
    assert outsiders and not any(bound.admits(v) for v in outsiders if not (v is True and bound.admits(True)))


def test_a_default_outside_its_bound_is_refused_at_declaration():
    with pytest.raises(TypeError, match="default"):
        param(3, choices=(1, 2), help="x")


def test_a_constructor_checks_too():
    with pytest.raises(BadValue, match="'mode'"):
        Sample(mode="z")
