"""Conditions are read, hold or do not, and are refused in a sentence."""

import pytest
from support.each import each

from gearshift.core.errors import BadValue
from gearshift.evaluate.conditions import Condition, read_condition, read_conditions


@each(
    "text, condition",
    [
        ("psnr>=35", Condition("psnr", "mean", ">=", 35.0)),
        (" worst : psnr >= .5 ", Condition("psnr", "worst", ">=", 0.5)),
        ("mean:kl<1e-3", Condition("kl", "mean", "<=", 1e-3)),
        ("perplexity<=101%", Condition("perplexity", "mean", "<=", 101.0, "%")),
        ("wer<=+0.5", Condition("wer", "mean", "<=", 0.5, "+")),
        ("agreement>=-2", Condition("agreement", "mean", ">=", -2.0, "+")),
    ],
)
def test_what_is_written_is_read_and_written_again(text, condition):
    assert read_condition(text) == condition and read_condition(str(condition)) == condition


@each(
    "text",
    ["", "psnr", "psnr>=", ">=3", "psnr=>3", "best:psnr>=3", "psnr>=3dB", "psnr>=nan", 3, None, "a" * 1000, ["x"]],
)
def test_what_is_none_is_refused(text):
    with pytest.raises(BadValue, match="is written as"):
        read_condition(text)


def test_conditions_are_a_list():
    assert len(read_conditions("psnr>=3")) == 1 and len(read_conditions(["psnr>=3", "kl<=1"])) == 2
    with pytest.raises(BadValue, match="a list of texts"):
        read_conditions(3)


def test_bounds_are_relative_to_the_original_where_they_say_so():
    percent, more = read_condition("perplexity<=101%"), read_condition("wer<=+0.5")
    assert percent.holds(10.09, 10.0) and not percent.holds(10.11, 10.0)
    assert more.holds(7.5, 7.0) and not more.holds(7.6, 7.0)
    assert not percent.holds(None, 10.0) and not percent.holds(float("nan"), 10.0)
    with pytest.raises(BadValue, match="has no perplexity"):
        percent.holds(3.0, None)
    with pytest.raises(BadValue, match="write '>='"):
        read_condition("psnr<=3").refuse_wrong_way("higher")
