"""Gates stay outside of what is compiled: as many graphs as without a cacher, no breaks, the same numbers."""

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import GearshiftError, GearshiftWarning
from gearshift.steps.decision import Action

pytestmark = pytest.mark.compiled


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("qkv_diffusers, taylor(order=1), torch_compile", 1),
        ("fora, torch_compile", 2),  # the first block's input has other strides, with or without a cacher
        ("torch_dynamic, flux_caching, torch_compile(target=module_list)", 2),
    ],
)
def test_a_cached_transformer_compiles_into_as_few_graphs(recipe, wanted):
    eager, compiled = build("dit"), build("dit")
    gs.optimize(eager.pipe, recipe.rpartition(", torch_compile")[0])
    gs.optimize(compiled.pipe, recipe)
    expected, got = eager.run(steps=6), compiled.run(steps=6)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-3)
    (log,) = gs.status(compiled.pipe).last_run.values()
    assert log.steps(Action.REUSE) == [3, 5]
    assert graphs() == wanted
    (entry,) = (a for a in gs.status(compiled.pipe).applied if a["name"] == "torch_compile")
    assert entry["figures"]["graphs"] == wanted


def test_a_language_model_generates_the_same_tokens():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()
    tokens = torch.arange(3, 9)[None]
    call = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(tokens, **call)
    gs.optimize(model, "torch_compile(fullgraph=false, dynamic=true)")
    assert torch.equal(model.generate(tokens, **call), plain)
    gs.restore(model)
    assert "forward" not in vars(model)


def test_one_graph_for_each_gear():
    tiny = build("dit")
    plain = tiny.run(steps=10)
    gs.optimize(tiny.pipe, "adaptive_precision(profile='low_vram')")
    eager = tiny.run(steps=10)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "adaptive_precision(profile='low_vram'), torch_compile")
    compiled = tiny.run(steps=10)
    assert graphs() == 3
    assert (compiled - eager).norm() < 0.2 * (eager - plain).norm()  # roundings that fall the other way grow with steps
    tiny.run(steps=10, seed=2)
    weight = tiny.pipe.transformer.transformer_blocks[0].ff.net[2].weight
    weight.data.mul_(-2)  # leaves no mark; the gears' rounded copies follow all the same
    compiled = tiny.run(steps=10)
    assert graphs() == 3
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "adaptive_precision(profile='low_vram')")
    eager = tiny.run(steps=10)
    assert (compiled - eager).norm() < 0.1 * (eager - plain).norm()
    gs.restore(tiny.pipe)
    weight.data.div_(-2)
    assert torch.equal(tiny.run(steps=10), plain)


def test_what_cannot_be_one_graph_is_said_and_compiles_in_parts(monkeypatch):
    compiled = torch.compile  # where graphs begin and end is not inductor's to decide
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compiled(function, **options | {"backend": "eager"})
    )
    plain, tiny = build("zimage"), build("zimage")
    gs.optimize(plain.pipe, "fora")
    wanted = plain.run(steps=4)
    gs.optimize(tiny.pipe, "fora, torch_compile")
    with pytest.raises(GearshiftError, match=r"ZImageTransformer2DModel cannot be compiled into one graph .*device"):
        tiny.run(steps=4)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "fora, torch_compile(fullgraph=false)")
    torch.testing.assert_close(tiny.run(steps=4), wanted, rtol=1e-3, atol=1e-4)


def test_little_to_compile_is_said():
    with pytest.warns(GearshiftWarning, match="% of the parameters of ZImageTransformer2DModel only"):
        gs.optimize(build("zimage").pipe, "torch_compile(target=module_list)")


class Sized(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.name = ""

    def forward(self, x):
        return self.layer(x).relu() + len(self.name)


@torch._dynamo.config.patch(recompile_limit=1)
def test_graphs_of_other_models_do_not_count_towards_the_limit():
    for width in (4, 6):
        model, x = Sized(width), torch.ones(2, width)
        plain = model(x)
        gs.optimize(model, "torch_compile(dynamic=false)")
        torch.testing.assert_close(model(x), plain)
    with pytest.raises(GearshiftError, match="as many shapes as torch allows"):
        model(torch.ones(3, 6))
    assert gs.status(model).applied[0]["figures"]["graphs"] == 1


@torch._dynamo.config.patch(recompile_limit=1)
def test_attributes_that_are_set_again_and_again_do_not_count_as_shapes():
    model, twin, x = Sized(4), Sized(4), torch.ones(2, 4)
    twin.load_state_dict(model.state_dict())
    gs.optimize(model, "torch_compile")
    for name in ("a", "bb", "ccc"):
        for each in (model, twin):
            each.name = name
        torch.testing.assert_close(model(x), twin(x))
    assert gs.status(model).applied[0]["figures"]["graphs"] == 3
