"""torchao_autoquant: takes the fastest layer that is near enough, remembers timing, compiles around later gates."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from support.timed import as_if
from torch import nn

import gearshift as gs
from gearshift.algorithms.common import deferred_compile
from gearshift.algorithms.compilers.torch_compile import Compiled
from gearshift.algorithms.quantizers.torchao_autoquant import Trials
from gearshift.core.errors import GearshiftWarning
from gearshift.core.folders import cache_folder
from gearshift.layers.candidates import CANDIDATES, candidates
from gearshift.measure import timing
from gearshift.measure.timing import Timings, compiled, fastest_calls
from gearshift.steps.gate import Gate, gate_of
from gearshift.steps.install import gates_below

EAGER = {"torchao_autoquant": {"compile": False}}
FRESH = """
import sys, torch, gearshift as gs
from safetensors.torch import save_file
torch.set_num_threads(1)
logits = gs.load(sys.argv[1] + "/saved")(input_ids=torch.arange(12)[None]).logits
save_file({"logits": logits.detach()}, sys.argv[1] + "/out.safetensors")
"""
QUICK = {"float": 4e-4, "int8": 1e-4, "int8 weights": 2e-4}  # as if they had been measured


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def quick(monkeypatch):
    """Timings that make int8 the fastest, and int8 weights the second."""
    monkeypatch.setattr(timing, "fastest_calls", lambda functions, x, budget: {name: QUICK[name] for name in functions})


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without inductor: quick, and the same bits."""
    monkeypatch.setitem(deferred_compile.OPTIONS, "backend", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def net(width=256):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * width)).eval()


def choices(model):
    return {name: row["chosen"] for name, row in gs.status(model).applied[0]["figures"]["choices"].items()}


def test_timings_are_kept_where_the_user_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gearshift"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "gearshift"


def test_timings_are_kept_beside_those_of_others():
    Timings().put("here", "work", {"float": 1.0})
    other = Timings()
    Timings().put("here", "other work", {"float": 2.0})
    other.put("here", "work", {"int8": 0.5})
    assert Timings().get("here", "work") == {"float": 1.0, "int8": 0.5}
    assert Timings().get("here", "other work") == {"float": 2.0}
    assert Timings().get("there", "work") == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"here": {"work": [1]}}', '{"here": {"work": {"float": "x"}}}', "\xff"]
)
def test_a_file_that_is_no_table_of_timings_is_ignored(text, tmp_path):
    path = tmp_path / "autoquant.json"
    path.write_bytes(text.encode("latin-1"))
    kept = Timings(path)
    assert kept.get("here", "work") == {}
    kept.put("here", "work", {"float": 1.0})
    assert json.loads(path.read_text()) == {"here": {"work": {"float": 1.0}}}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    kept = Timings(tmp_path / "file" / "autoquant.json")
    kept.put("here", "work", {"float": 1.0})
    kept.put("here", "other work", {"float": 2.0})
    assert kept.get("here", "work") == {"float": 1.0}


def test_the_faster_is_measured_to_be_faster():
    large, small = torch.randn(256, 256), torch.randn(16, 16)
    seconds = fastest_calls({"large": lambda x: large @ large @ large, "small": lambda x: small @ small}, large, 20)
    assert 0 < seconds["small"] < seconds["large"]


def test_each_layer_that_is_compiled_by_itself_is_traced_once(traced):
    """Though many layers share one class's forward, of whose graphs torch allows eight."""
    layers = [nn.Linear(size, 8) for size in range(8, 17)]
    torch._dynamo.utils.counters.clear()
    for layer in layers:
        run, x = compiled(layer, backend="aot_eager"), torch.randn(2, layer.in_features)
        assert torch.allclose(run(x), layer(x), atol=1e-6)
        assert torch.equal(run(x), run(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(layers)


def test_the_fastest_is_taken_and_the_table_says_so(quick):
    model, x = net(), torch.randn(64, 256)
    want = model(x)
    gs.optimize(model, EAGER, data=[x])
    assert choices(model) == {"0": "int8", "2": "int8"}
    row = gs.status(model).applied[0]["figures"]["choices"]["0"]
    assert {name: row[f"{name} us"] for name in QUICK} == pytest.approx({n: 1e6 * s for n, s in QUICK.items()})
    assert row["sqnr"] > 35
    assert (model(x) - want).norm() < 0.05 * want.norm()
    assert "chosen int8" in str(gs.status(model))


def test_what_is_no_faster_in_its_place_is_left(quick, monkeypatch):
    monkeypatch.setattr(
        "gearshift.measure.in_place.timed_in_place", as_if(lambda layer: 2.0 if layer.out_features > 256 else 1)
    )
    model, x = net(), torch.randn(64, 256)
    gs.optimize(model, EAGER, data=[x])
    assert choices(model) == {"0": "float", "2": "int8"} and type(model[0]) is nn.Linear
    figures = gs.status(model).applied[0]["figures"]
    assert "would be no faster in calls of the model here" in figures["left"]["0"]
    assert figures["call_speed_over_float"] == 2.0


def test_what_is_too_far_from_float_is_not_taken(quick):
    """An input with one large value leaves the others few of a token's 256 levels; weights in 8 bits do not mind."""
    layer, x = net()[0], torch.randn(64, 256)
    x[:, 0] = 1000
    layer.weight.data[:, 0] = 0
    found = Trials(False).fastest(layer, x)
    assert found.name == "int8 weights"
    assert found.row["int8 sqnr"] < 25 < found.row["sqnr"]


def test_a_small_gain_and_a_small_layer_are_left(monkeypatch):
    monkeypatch.setattr(
        timing, "fastest_calls", lambda functions, x, budget: {n: 1e-4 for n in functions} | {"float": 1.05e-4}
    )
    model = net()
    with pytest.warns(GearshiftWarning, match="no kind of layer that is near enough was faster"):
        gs.optimize(model, EAGER, data=[torch.randn(64, 256)])
    assert choices(model) == {"0": "float", "2": "float"}
    model = net(32)
    with pytest.warns(GearshiftWarning, match="too small to gain"):
        gs.optimize(model, EAGER, data=[torch.randn(64, 32)])
    assert [type(m) for m in model[::2]] == [nn.Linear, nn.Linear]


def test_without_a_call_nothing_is_timed_and_that_is_said():
    with pytest.warns(GearshiftWarning, match="give data"):
        gs.optimize(net(), EAGER)


def test_measured_in_earnest_once_and_then_remembered(monkeypatch):
    model, x = net(1024), torch.randn(128, 1024)
    trials = Trials(False)
    started = time.perf_counter()
    first = trials.fastest(model[0], x)
    assert time.perf_counter() - started < 20
    assert {n for n in first.row if n.endswith(" us")} == {"float us"} | {f"{n} us" for n in candidates(model[0])}
    monkeypatch.setattr(timing, "fastest_calls", lambda *_: pytest.fail("timed again"))
    assert Trials(False).fastest(model[0], x).row == first.row
    times = {n: us for n, us in first.row.items() if n.endswith(" us")}
    assert first.name == "float" or times[f"{first.name} us"] < times["float us"]


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_is_made_and_loaded(name):
    if name.startswith("torchao"):
        pytest.importorskip("torchao")
    layer, x = net()[0], torch.randn(4, 256)
    made = CANDIDATES[name].make(layer)
    fresh = CANDIDATES[name].make(nn.Linear(256, 256, device="meta"))
    fresh.load_state_dict(made.state_dict(), assign=True)
    assert torch.equal(fresh(x), made(x))
    assert (made(x) - layer(x)).norm() < 0.06 * layer(x).norm()


def test_a_saved_model_has_the_layers_that_were_chosen(quick, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()
    tokens = torch.arange(12)[None]
    gs.optimize(model, EAGER)
    assert set(choices(model).values()) == {"int8"}
    gs.save(model, tmp_path / "saved")
    assert choices(gs.load(tmp_path / "saved")) == choices(model)
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
    assert torch.equal(load_file(tmp_path / "out.safetensors")["logits"], model(input_ids=tokens).logits)


def test_without_a_compiler_it_is_said_and_run_as_it_is(quick, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    model, x = net(), torch.randn(64, 256)
    with pytest.warns(GearshiftWarning, match="no C\\+\\+ compiler"):
        gs.optimize(model, "torchao_autoquant", data=[x])
    assert choices(model) == {"0": "int8", "2": "int8"}
    assert gate_of(model) is None


def test_the_model_is_compiled_and_can_be_restored(quick, traced, monkeypatch):
    monkeypatch.setattr(timing, "compiled", lambda layer: layer)
    model, x = net(), torch.randn(64, 256)
    with torch.no_grad():
        want = model(x)
        gs.optimize(model, "torchao_autoquant", data=[x], keep_original=True)
        torch._dynamo.utils.counters.clear()
        got = model(x)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        assert (got - want).norm() < 0.05 * want.norm()
        gs.restore(model)
        assert torch.equal(model(x), want)
    assert "forward" not in vars(model)


def test_gates_that_come_later_stay_outside_of_the_graphs(quick, traced, monkeypatch):
    monkeypatch.setattr(timing, "compiled", lambda layer: layer)
    model, x = net(), torch.randn(64, 256)
    gs.optimize(model, "torchao_autoquant", data=[x])
    torch._dynamo.utils.counters.clear()
    stats = torch._dynamo.utils.counters["stats"]
    with torch.no_grad():
        want = model(x)
        assert stats["unique_graphs"] == 1  # the whole
        gate = Gate(model[2])
        gate.attach()
        assert torch.equal(model(x), want)
        assert isinstance(gate.compiled, Compiled)
        assert stats["unique_graphs"] == 2  # what stands behind the gate
        gate.detach()
        assert torch.equal(model(x), want)
        assert (gate.compiled, stats["unique_graphs"]) == (None, 2)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert not list(gates_below(model))
