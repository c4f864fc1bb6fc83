"""`explain` says which steps were computed and why; the log tells the same as it goes."""

import logging

import pytest
from support.tiny import names

import gearshift as gs
from gearshift.core.errors import BadValue
from gearshift.core.progress import progress_line
from gearshift.steps.decision import Action, Decision, RunLog
from gearshift.steps.explanation import Explained, in_spans


def test_every_step_of_a_run_is_in_one_group_and_says_why(tinies):
    tiny, _ = tinies(names()[0], 8)
    gs.optimize(tiny.pipe, "taylor(cache_interval=3, start_step=2)")
    try:
        assert "no sampling run has begun" in str(gs.explain(tiny.pipe))
        tiny.run(steps=8)
        found = gs.explain(tiny.pipe)
        (entry,) = found
        groups = [(r.action, r.steps) for r in entry.branches[0]]
        assert sorted(step for _, steps in groups for step in steps) == list(range(8))
        computed = {step for action, steps in groups if action is Action.COMPUTE for step in steps}
        assert computed == set(gs.status(tiny.pipe).last_run["taylor"].steps(Action.COMPUTE))
        assert f"{len(computed)} of 8 steps computed" in str(found)
        assert found._repr_html_().count("<tr>") == 1 + len(groups)
    finally:
        gs.restore(tiny.pipe)
    assert str(gs.explain(tiny.pipe)) == "Nothing was done to this model."


def test_reasons_that_differ_in_numbers_are_one_and_passes_that_agree_are_told_once():
    log = RunLog("adaptive", "backbone", 3)
    for step, change in enumerate((0.25, 0.5)):
        log.note(Decision(step, "backbone", 0, Action.COMPUTE, reason=f"the latent changed by {change}"))
    log.note(Decision(2, "backbone", 0, Action.REUSE))
    assert [r.steps for r in Explained.of(log).branches[0]] == [(0, 1), (2,)]
    for step, action in enumerate((Action.COMPUTE, Action.COMPUTE, Action.COMPUTE)):
        log.note(Decision(step, "backbone", 1, action, reason="its turn"))
    assert "pass 2: 3 of 3 steps computed" in str(Explained.of(log))
    assert in_spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_a_model_without_steps_says_so():
    import torch

    model = gs.optimize(torch.nn.Sequential(torch.nn.Linear(64, 64)), "half")
    assert "all steps alike" in str(gs.explain(model))


def test_the_log_has_what_was_applied_and_each_decision(tinies, caplog):
    tiny, _ = tinies(names()[0], 8)
    with caplog.at_level(logging.DEBUG, logger="gearshift"):
        gs.optimize(tiny.pipe, "periodic")
        tiny.run(steps=8)
    gs.restore(tiny.pipe)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("applied periodic with {") for line in lines)
    assert sum("at the backbone: reuse" in line for line in lines) >= 2
    assert any(line.startswith("run ended: periodic") for line in lines)


def test_verbosity_has_four_levels_and_silences_progress(capsys):
    progress_line("work.")
    gs.set_verbosity("warning")
    progress_line("work.")
    assert capsys.readouterr().err.count("work.") == 1
    with pytest.raises(BadValue, match="did you mean 'info'"):
        gs.set_verbosity("infos")
