"""fp8: near to trained weights, e5m2 where the range needs it, said to be storage only where it is."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

import gearshift as gs
from gearshift import zoo
from gearshift.core.errors import GearshiftWarning
from gearshift.core.model import size_bytes
from gearshift.layers.float8 import Fp8Linear

LARGE = torch.tensor([1e6, 0.7e6])


@contextmanager
def told():
    """What is said on a CPU: that the weights are only stored, and that it takes longer."""
    with pytest.warns(GearshiftWarning) as said:
        yield
    assert any("only stores the weights in 8 bits" in str(w.message) for w in said)


class Net(nn.Module):
    """Two linear layers, the second with weights over more than 18 powers of two."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 32)
        with torch.no_grad():
            self.second.weight[:, :2] = LARGE

    def forward(self, x):
        return self.second(torch.nn.functional.pad(self.first(x)[..., 2:], (2, 0)))


def test_trained_weights_keep_25_db():
    pipe = zoo.load("text-to-image")
    with told():
        gs.optimize(pipe, "fp8")
    (done,) = gs.status(pipe).applied
    assert min(done["figures"]["sqnr"].values()) > 25
    assert done["figures"]["sqnr_mean"] > 31
    layers = [m for m in pipe.unet.modules() if isinstance(m, Fp8Linear)]
    assert len(layers) == done["figures"]["layers"] > 50
    assert sum(b.nbytes for m in layers for b in m.buffers()) < 0.27 * sum(4 * m.weight.numel() for m in layers)


def test_a_weight_of_wide_range_gets_e5m2():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(16, 64)
    want = net(x)
    with told():
        gs.optimize(net, "fp8", data=[x])
    assert (net.first.qweight.dtype, net.second.qweight.dtype) == (torch.float8_e4m3fn, torch.float8_e5m2)
    assert (net(x) - want).norm() < 0.1 * want.norm()


def test_a_wide_range_that_is_not_seen_to_matter_stays_e4m3fn():
    """Without an input the weights decide, and their few large ones are nearer in e4m3fn."""
    net = Net()
    with told():
        gs.optimize(net, "fp8")
    assert net.second.qweight.dtype == torch.float8_e4m3fn


def test_a_saved_model_knows_each_layer_s_format(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        norm = model.model.layers[0].input_layernorm
        norm.weight[:2] = 0  # its inputs are zero, and then large weights for it do not count
        model.model.layers[0].self_attn.v_proj.weight[:, :2] = LARGE
        with told():
            gs.optimize(model, "fp8")
        want = model(input_ids=tokens).logits
        gs.save(model, tmp_path / "saved")
        loaded = gs.load(tmp_path / "saved")
        assert torch.equal(loaded(input_ids=tokens).logits, want)
    assert loaded.model.layers[0].self_attn.v_proj.qweight.dtype == torch.float8_e5m2
    assert size_bytes(loaded) == size_bytes(model)
