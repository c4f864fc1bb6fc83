"""The search for a recipe: its space, what is predicted, what is tried, and what counts as the best."""

import math
import time

import pytest
from support.each import each

import gearshift as gs
from gearshift.core.errors import BadValue, UnknownName
from gearshift.core.facts import Kind
from gearshift.core.registry import registry
from gearshift.evaluate.examples import Example
from gearshift.tune.candidate import Tried, front, predicted
from gearshift.tune.goal import read_budget, read_goal, violations
from gearshift.tune.search import Search, text_of
from gearshift.tune.space import go_together, space_of
from gearshift.tune.study import Study

pytest.importorskip("optuna")
GOAL = read_goal(["psnr>=40", "worst:psnr>=30"], "latency", "1h", Kind.DIFFUSION)
EXAMPLES = [Example({"prompt": f"p{n}"}, (f"p{n}",), n) for n in range(6)]


BACKENDS = {"torch_compile": {"backend": ["inductor", "openvino"]}, "taylor": {"order": [1, 2]}}


def space(only=("taylor", "deepcache", "torch_compile", "qkv_diffusers"), values=None, without=None):
    return space_of(Kind.DIFFUSION, lambda recipe: [], only, without, values)


def found(gain, mean, worst, held=None):
    """What a job writes for a candidate of this gain and closeness."""
    figures = {"psnr": {"mean": mean, "worst": worst}, "speedup": {"mean": gain}, "latency": {"mean": 1 / gain}}
    whole = {"figures": figures, "original": {"latency": {"mean": 1.0}}, "stages": 2, "stopped": ""}
    broken = violations(GOAL.keep, figures, {})
    if broken:
        return {**whole, "stopped": "; ".join(broken)}
    kept = {"psnr": {"mean": held or mean, "worst": worst}, "speedup": {"mean": gain}}
    return {**whole, "held_out": {"figures": kept, "original": {}, "ratios": [gain, gain * 1.02, gain * 0.98]}}


def test_the_space_is_the_registry_with_values_from_its_bounds():
    made = space()
    assert {s.algorithm.name for s in made.defaults()} == {"taylor", "deepcache", "torch_compile", "qkv_diffusers"}
    intervals = {s.algorithm.interval for s in made.of("deepcache")}
    assert intervals == {1, 2, 3, 4, 5} and len(made.of("qkv_diffusers")) == 1
    everything = space(only=None)
    assert not {"text_to_image_lora", "hyper", "realesrgan_upscale", "gptq"} & {
        s.algorithm.name for s in everything.settings
    }
    shares = {s.algorithm.speed_factor for s in everything.of("taylor_auto")}
    assert len(shares) > 4 and all(0 < s < 1 for s in shares)
    narrow = space(values={"taylor": {"order": [1], "cache_interval": [3, 4]}})
    assert [s.text for s in narrow.of("taylor")] == [
        "taylor(order=1, cache_interval=3)",
        "taylor(order=1, cache_interval=4)",
    ]
    assert "taylor" not in {s.algorithm.name for s in space(only=None, without="cacher").settings}
    refused = space_of(
        Kind.DIFFUSION, lambda r: ["no."] if "taylor" in str(r) else [], ["taylor", "deepcache"], None, None
    )
    assert dict(refused.refused) == {"taylor": "no."}


@each(
    "given, sentence",
    [
        ({"only": ["tailor"]}, "did you mean 'taylor'"),
        ({"only": 3}, "only is a list"),
        ({"only": ["taylor"], "without": ["cacher"]}, "Nothing can be tried"),
        ({"values": {"tailor": {}}}, "did you mean 'taylor'"),
        ({"values": {"taylor": {"order": [9]}}}, "must be one of"),
        ({"values": {"taylor": {"order": 1}}}, "list of values"),
        ({"values": {"taylor": {"odor": [1]}}}, "no parameter of taylor"),
        ({"values": 3}, "space is a dict"),
    ],
)
def test_what_cannot_be_searched_is_a_sentence(given, sentence):
    with pytest.raises((BadValue, UnknownName), match=sentence):
        space(**given)


@each(
    "keep, objective, budget, sentence",
    [
        (["psnr>=40"], "speed", "1m", "There is no objective 'speed'"),
        (["psnr>=40"], "latency", "soon", "budget is a time"),
        (["psnr>=40"], "latency", 0, "budget is a time"),
        (["psnr>=40"], "latency", True, "budget is a time"),
        (["psnr is good"], "latency", "1m", "is written as"),
        (["psnr<=40"], "latency", "1m", "write '>='"),
        (["psnl>=40"], "latency", "1m", "did you mean 'psnr'"),
        (["perplexity<=3"], "latency", "1m", "is for a language model"),
        (["worst:latency<=3"], "latency", "1m", "has no worst item"),
    ],
)
def test_goals_that_are_none_are_sentences(keep, objective, budget, sentence):
    with pytest.raises((BadValue, UnknownName), match=sentence):
        read_goal(keep, objective, budget, Kind.DIFFUSION)


def test_budgets_and_gains():
    assert [read_budget(b) for b in ("10m", "90s", "1.5h", 30, "30")] == [600, 90, 5400, 30, 30]
    memory = read_goal(None, "memory", "1m", Kind.LANGUAGE)
    assert memory.gain(5.0, 20.0) == 4.0 and memory.gain(None, 20.0) == 0.0 and GOAL.gain(3.0, 1.0) == 3.0
    assert [str(c) for c in memory.keep] == ["perplexity<=102%"]


def test_gains_multiply_and_errors_add_in_power():
    made = space()
    one, two = made.of("deepcache")[0], made.of("torch_compile")[0]
    singles = {
        one.text: Tried(one.text, GOAL, found(2.0, 43.0103, 36.0)),
        two.text: Tried(two.text, GOAL, found(1.5, 43.0103, 50.0)),
    }
    both = predicted((one, two), singles, GOAL)
    assert both.gain == 3.0 and both.keeps  # 40.0 dB together
    singles[two.text] = Tried(two.text, GOAL, found(1.5, 38.0, 36.0))
    assert not predicted((one, two), singles, GOAL).keeps
    assert predicted((one, made.of("taylor")[0]), singles, GOAL) is None


def machine(limit, recipe, **_):
    """A made-up machine: what each algorithm gives and costs; together gains multiply."""
    gain, error = 1.0, 1e-6
    for algorithm in gs.Recipe.of(recipe):
        if algorithm.name == "deepcache":
            gain, error = gain * algorithm.interval**0.7, error + 1e-6 * 8**algorithm.interval
        elif algorithm.name == "taylor":
            gain, error = gain * 1.2, error + 1e-3
        elif algorithm.name == "torch_compile":
            gain = gain * (2.0 if algorithm.backend == "openvino" else 1.3)
    psnr = -10 * math.log10(error)
    return found(gain, psnr, psnr - 5)


def searched(study, run=machine, seconds=1e6, **given):
    made = space(values=BACKENDS, **given)
    told = []
    search = Search(run, made, GOAL, study, EXAMPLES[:4], EXAMPLES[4:], lambda *a: told.append(a))
    search.until = time.monotonic() + seconds
    search.search()
    return search, told


def test_the_best_combination_is_found_after_its_parts():
    made = space(values=BACKENDS)
    search, told = searched(Study(None, "a", made, 0))
    best = search.best
    wanted = max(
        (s for s in map(text_of, ((a, b) for a in made.of("deepcache") for b in made.of("torch_compile")))),
        key=lambda r: machine(0, r)["figures"]["speedup"]["mean"] if not machine(0, r)["stopped"] else 0,
    )
    assert best.gain == pytest.approx(machine(0, wanted)["figures"]["speedup"]["mean"]) and not best.why
    assert told[-1][0] == len(search.done) and front(list(search.done.values()), GOAL)[0].gain >= best.gain


def test_an_ended_search_goes_on_where_it_was(tmp_path):
    made, path = space(values=BACKENDS), tmp_path / "study.db"
    calls = []

    def counted(limit, recipe, **given):
        calls.append(recipe)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return machine(limit, recipe)

    with pytest.raises(KeyboardInterrupt):
        searched(Study(path, "k", made, 0), counted)
    assert set(Study(path, "k", made, 0).known()) == set(calls[:5])
    search, _ = searched(Study(path, "k", made, 0), counted)
    assert len(calls) == len(set(calls)) + 1 and search.best.gain > 2.5
    assert not Study(path, "another", made, 0).known()


def test_what_fails_on_held_out_examples_is_not_the_best():
    def lucky(limit, recipe, **given):
        return {**found(9.0, 50.0, 45.0, held=20.0)} if "deepcache" in recipe else found(0.8, 60.0, 50.0)

    made = space(values=BACKENDS)
    search, _ = searched(Study(None, "b", made, 0), lucky)
    assert search.best is None
    bad = next(c for c in search.done.values() if "deepcache" in c.recipe)
    assert bad.why == "on held-out examples psnr is 20.0 dB, asked was psnr>=40"


def test_rules_are_kept_in_combinations():
    made = space(values=BACKENDS)
    assert not go_together([made.of("taylor")[0], made.of("deepcache")[0]]) and go_together(
        [made.of("taylor")[0], made.of("torch_compile")[0]]
    )
    assert len(list(registry())) >= 47
