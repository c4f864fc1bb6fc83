"""Whatever is done to a compiled module afterwards shows, as it does in the module itself."""

from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.core.extras import installed

STEPS = 4  # calls that a state has to last for the next one to be compiled at once


class Scaled(AttnProcessor2_0):
    def __init__(self):
        super().__init__()
        self.scale = [0.5]

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs) * self.scale[0]


def attention(net):
    return net.transformer_blocks[0].attn1


def adapters(net):
    return [module for module in net.modules() if isinstance(module, LoraLayer)]


def an_adapter_put_in(net):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False)
    inject_adapter_in_model(config, net, adapter_name="a")
    net.requires_grad_(False).eval()


def its_scale(net):
    for layer in adapters(net):
        layer.set_scale("a", 0.3)


def the_adapter_off(net):
    for layer in adapters(net):
        layer.enable_adapters(False)


def the_adapter_merged(net):
    for layer in adapters(net):
        layer.enable_adapters(True)
        layer.set_scale("a", 2.0)
        layer.merge()


def an_attention_processor(net):
    attention(net).set_processor(Scaled())


def a_number_in_a_list_of_the_processor(net):
    attention(net).processor.scale[0] = 0.2


def a_hook(net):
    net.transformer_blocks[1].register_forward_hook(lambda module, args, output: output * 0.5)


def an_attribute(net):
    attention(net).rescale_output_factor = 3.0


def weights_in_place(net):
    net.transformer_blocks[0].ff.net[2].weight.data.mul_(-2)


def weights_elsewhere(net):
    layer = net.transformer_blocks[0].ff.net[2]
    layer.weight.data = layer.weight.data * 3


def a_layer(net):
    layer = net.transformer_blocks[0].ff.net[2]
    net.transformer_blocks[0].ff.net[2] = torch.nn.Linear(layer.in_features, layer.out_features)
    net.transformer_blocks[0].ff.net[2].load_state_dict({k: -v for k, v in layer.state_dict().items()})


EDITS = [
    an_adapter_put_in,
    its_scale,
    the_adapter_off,
    the_adapter_merged,
    an_attention_processor,
    a_number_in_a_list_of_the_processor,
    a_hook,
    an_attribute,
    weights_in_place,
    weights_elsewhere,
    a_layer,
]
COMPILED = {
    "torch_compile(backend=openvino)": ("openvino",),
    "torch_compile(backend=onnxrt)": ("onnxruntime", "onnx", "onnxscript"),
    "torch_compile": (),
    "torch_compile(make_portable=True)": (),
}


class Small(torch.nn.Module):
    """Compiles within seconds, and can be edited in the same ways."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.to_q, self.to_v, self.scale = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), [1.0]
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.to_v(self.to_q(x).relu()) * self.scale[0]


def weight(net):
    return getattr(net.to_q, "base_layer", net.to_q).weight


SMALL_EDITS = [
    an_adapter_put_in,
    its_scale,
    the_adapter_off,
    the_adapter_merged,
    lambda net: net.to_v.register_forward_hook(lambda module, args, output: output * 0.5),
    lambda net: net.scale.__setitem__(0, 0.3),
    lambda net: weight(net).data.mul_(-2),
    lambda net: setattr(weight(net), "data", weight(net).data * 3),
]


def compared(ours, theirs, edits):
    """Both are edited; each time the call of the one must give what that of the other gives."""
    (edited, run), (twin, run_twin) = ours, theirs
    before = run_twin()
    torch.testing.assert_close(run(), before, rtol=1e-3, atol=1e-3)
    for n, edit in enumerate(edits):
        edit(edited)
        edit(twin)
        wanted = run_twin()
        assert (wanted - before).norm() > 1e-2 * before.norm(), f"edit {n} changes nothing"
        error = (run() - wanted).norm() / wanted.norm()
        assert error < 1e-3, f"edit {n}: {error:.2g} off"
        before = wanted


@pytest.mark.filterwarnings("ignore:DiTTransformer2DModel was changed since")
@pytest.mark.parametrize("recipe", ["stable_fast", "x_fast"])
def test_edits_of_a_traced_denoiser_show_and_are_traced(recipe):
    tiny, eager = build("dit"), build("dit")
    gs.optimize(tiny.pipe, recipe)
    ours, theirs = ((each.pipe.transformer, partial(each.run, steps=STEPS)) for each in (tiny, eager))
    compared(ours, theirs, EDITS)
    (entry,) = gs.status(tiny.pipe).applied
    assert entry["figures"] == {"graphs": len(EDITS) + 1, "recompiles": len(EDITS)}
    (note,) = (n for n in entry["notes"] if "changed since" in n)
    assert "transformer_blocks.0.attn1.to_q" in note


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:Small was changed since")
@pytest.mark.parametrize("recipe", COMPILED)
def test_edits_of_a_compiled_module_show(recipe):
    if not all(map(installed, COMPILED[recipe])):
        pytest.skip("its packages are not installed")
    model, twin = Small(), Small()
    gs.optimize(model, recipe)

    def run(net):
        for _ in range(STEPS - 1):
            net(torch.ones(2, 8))
        return net(torch.ones(2, 8))

    edits = SMALL_EDITS[5:7] if "portable" in recipe else SMALL_EDITS[4:]  # they notice as tracing does
    edits = SMALL_EDITS if recipe == "torch_compile" else edits
    compared((model, partial(run, model)), (twin, partial(run, twin)), edits)
    assert gs.status(model).applied[0]["figures"]["graphs"] >= 2


def test_a_state_that_comes_back_has_its_graph_still():
    tiny = build("dit")
    plain = tiny.run(steps=STEPS)
    gs.optimize(tiny.pipe, "stable_fast")
    tiny.run(steps=STEPS)
    block = tiny.pipe.transformer.transformer_blocks[1]
    handle = block.register_forward_hook(lambda module, args, output: output * 0.5)
    with pytest.warns(GearshiftWarning, match=r"changed since it was traced \(transformer_blocks.1._forward_hooks\)"):
        halved = tiny.run(steps=STEPS)
    handle.remove()
    torch.testing.assert_close(tiny.run(steps=STEPS), plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(halved, plain)
    assert gs.status(tiny.pipe).applied[0]["figures"]["graphs"] == 2


def test_what_changes_in_every_step_is_not_traced_again_and_again():
    tiny, eager = build("dit"), build("dit")
    gs.optimize(tiny.pipe, "stable_fast")

    def every_step(pipe):
        count = iter(range(1, 100))
        hook = lambda module, args: setattr(attention(module), "rescale_output_factor", float(next(count)))  # noqa: E731
        pipe.transformer.register_forward_pre_hook(hook)

    every_step(tiny.pipe)
    every_step(eager.pipe)
    with pytest.warns(GearshiftWarning, match="DiTTransformer2DModel is changed every few calls"):
        got = tiny.run(steps=24)
    torch.testing.assert_close(got, eager.run(steps=24), rtol=1e-3, atol=1e-3)
    assert gs.status(tiny.pipe).applied[0]["figures"]["graphs"] == 1
