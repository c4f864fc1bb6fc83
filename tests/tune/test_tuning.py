"""Tuning a real, tiny model: candidates that crash, hang or fail are rows; the recipe is saved and read; mistakes."""

import json
import warnings

import pytest
import torch
from support import misbehaving
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue, GearshiftError, GearshiftWarning
from gearshift.core.registry import registry
from gearshift.tune import search
from gearshift.tune.jobs import Jobs

pytest.importorskip("optuna")
TEXTS = [{"input_ids": list(range(3 + n, 15 + n)), "max_new_tokens": 2} for n in range(3)]


@pytest.fixture
def misfits():
    for cls in misbehaving.ALL:
        registry().add(cls)
    yield [cls.name for cls in misbehaving.ALL]
    for cls in misbehaving.ALL:
        del registry()._classes[cls.name]


def test_candidates_that_end_badly_are_rows_with_their_reason(misfits, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "LEAST", 30.0)
    model = build("llama").pipe
    before = {k: v.clone() for k, v in model.state_dict().items()}
    out = tmp_path / "t"
    found = gs.tune(model, data=TEXTS, keep="perplexity<=200%", budget="200s", only=misfits, out=out)
    why = {c.recipe: c.why for c in found.candidates}
    assert "took more than" in why["test_hangs"] and "SIGABRT" in why["test_crashes"]
    assert why["test_fails"] == "ValueError: no such luck" and "perplexity" in found.candidates[0].figures
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert json.loads((out / "tuning.json").read_text())["candidates"][0]["recipe"] in why
    assert "<!doctype html>" in (out / "report.html").read_text() and "perplexity" in str(found)
    if found.best is None:
        assert "Nothing here is better" in str(found) and len(found.recipe) == 0
        with pytest.raises(GearshiftError, match="nothing to apply"):
            found.apply(model)
    again = gs.tune(model, data=TEXTS, keep="perplexity<=200%", budget="200s", only=misfits, out=out)
    assert again.seconds < 60 and {c.recipe: c.why for c in again.candidates} == why  # what is known is not run again


def test_a_tuned_recipe_is_a_recipe_and_tells_of_another_machine(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("algorithms:\n- torch_unstructured:\n    sparsity: 0.5\ntuned:\n  machine: a quantum computer\n")
    recipe = gs.Recipe.of(path)
    assert recipe.tuned == {"machine": "a quantum computer"} and "tuned" not in recipe.to_dict()
    with pytest.warns(GearshiftWarning, match="found on another machine"):
        gs.optimize(build("llama").pipe, path)
    path.write_text("algorithms: torch_unstructured\ntuned: 3\n")
    with pytest.raises(BadRecipe, match="tuned is what"):
        gs.Recipe.of(path)


@each(
    "given, sentence",
    [
        ({"data": TEXTS[:2]}, "needs 3 or more"),
        ({"data": []}, "no example"),
        ({"keep": ["psnr>=3"]}, "is for a diffusion pipeline"),
        ({"keep": 3}, "list of texts"),
        ({"objective": "speed"}, "no objective"),
        ({"budget": "x"}, "budget is a time"),
        ({"only": ["nothing"]}, "no algorithm or family"),
        ({"out": "/proc/x"}, "cannot be written"),
        ({"out": 3}, "must be a path"),
    ],
)
def test_mistakes_are_sentences_before_anything_runs(
    given,
    sentence,
):
    with pytest.raises(GearshiftError, match=sentence):
        gs.tune(build("llama").pipe, **{"data": TEXTS, **given})


def test_an_optimized_model_is_not_tuned():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = gs.optimize(build("llama").pipe, "torch_unstructured")
    with pytest.raises(GearshiftError, match="starts from the original"):
        gs.tune(model, data=TEXTS)


def test_what_cannot_be_sent_to_a_candidates_process_is_a_sentence():
    with pytest.raises(BadValue, match="something cannot be sent there"):
        Jobs({"metrics": lambda answer: 0.0})
    with Jobs({}) as jobs, pytest.raises(BadValue, match="something cannot be sent there"):
        jobs.run(1.0, held_out=[lambda: 0])
