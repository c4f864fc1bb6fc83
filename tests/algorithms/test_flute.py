"""HIGGS in FLUTE's kernels, with a stand-in for the package."""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from gearshift.kernels.cuda import flute
from gearshift.quant.formats.gaussian_grid import numbers, pack, pairs

SETTINGS = [(bits, p) for bits in (2, 3, 4) for p in (1, 2)]
each_setting = pytest.mark.parametrize(("bits", "p"), SETTINGS)


class Flute:
    """FLUTE's functions as its documentation describes them, in plain torch."""

    def __init__(self, off: float = 1.0, kernel: bool = True) -> None:
        self.off, self.kernel, self.calls = off, kernel, []

    def prepare_data_transposed(self, codes, scales, grid, *, num_bits, group_size, vector_size, dtype, device, **more):
        if not self.kernel:
            raise RuntimeError("CUDA error: invalid argument")
        assert codes.dtype == torch.uint8 and scales.dtype == grid.dtype == dtype and vector_size == 2
        assert grid.shape == (4**num_bits, 2) and scales.shape[1] == 2 * codes.shape[1] // group_size
        weight = grid[codes.int()].flatten(1) * scales.repeat_interleave(group_size, 1)
        return weight, None, None, None, SimpleNamespace(rows=more["example_batch_size"])

    def qgemm_v2(self, x, weight, scales, table, table2, workspace, tuned):
        self.calls.append((len(x), tuned.rows))
        return F.linear(x, weight) * self.off

    def get_workspace_streamk(self, device):
        return torch.zeros(1)


@pytest.fixture
def installed(monkeypatch):
    """Puts a stand-in where FLUTE would be, and says which one is the faster."""

    def install(stand_in, ratio=2.0):
        modules = {name: ModuleType(name) for name in ("flute", "flute.integrations", "flute.utils", "flute.tune")}
        modules["flute.integrations.higgs"] = higgs = ModuleType("flute.integrations.higgs")
        higgs.prepare_data_transposed = stand_in.prepare_data_transposed
        modules["flute.tune"].qgemm_v2 = stand_in.qgemm_v2
        modules["flute.utils"].get_workspace_streamk = stand_in.get_workspace_streamk
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(flute, "speed_ratio", lambda *_: ratio)
        return stand_in

    return install


@each_setting
def test_flute_gets_what_it_asks_for(installed, bits, p):
    stand_in = installed(Flute())
    codes, scale = torch.randint(4**bits, (6, 32), dtype=torch.uint8), torch.rand(6, 1).half()
    weight = pack(codes, bits), scale, pairs(bits, p), bits
    x = torch.randn(2, 64).half()
    got = flute.multiply(x, *weight, 2)
    assert stand_in.calls[-1] == (2, 2)
    assert torch.allclose(got, F.linear(x, numbers(*weight, torch.float16)), atol=0.02)
    flute.multiply(x, *weight, 2)
    assert len(stand_in.calls) == 3, "once to compare, then once a call"
    kept, codes = weakref.ref(weight[0]), None
    del weight
    gc.collect()
    assert kept() is None, "what was chosen for a weight keeps it alive"


@pytest.mark.parametrize(("stand_in", "ratio"), [(Flute(off=1.5), 2.0), (Flute(kernel=False), 2.0), (Flute(), 0.5)])
def test_flute_is_left_where_it_is_wrong_has_no_kernel_or_is_slower(installed, stand_in, ratio):
    installed(stand_in, ratio)
    weight = torch.zeros(6, 32, dtype=torch.uint8), torch.rand(6, 1).half(), pairs(4, 2), 4
    x = torch.randn(1, 64).half()
    assert torch.equal(flute.multiply(x, *weight, 1), F.linear(x, numbers(*weight, torch.float16)))
    assert len(stand_in.calls) <= 1


def test_flute_is_asked_only_on_cuda_in_16_bits_for_as_many_rows(monkeypatch):
    monkeypatch.setattr(flute, "INSTALLED", True)
    for dtype, cuda, rows, asked in [
        (torch.float16, True, 2, True),
        (torch.bfloat16, True, 1, True),
        (torch.float16, True, 3, False),
        (torch.float32, True, 2, False),
        (torch.float16, False, 2, False),
    ]:
        x = SimpleNamespace(dtype=dtype, is_cuda=cuda, shape=(rows, 64))
        assert flute.serves(x, 2) is asked


def test_what_flute_lacks_is_said_in_words(installed):
    if not flute.INSTALLED:
        assert "pip install 'gearshift[flute]'" in flute.missing("cuda")
    installed(Flute())
    assert flute.missing("cuda") is None
    assert "the model is on cpu" in flute.missing("cpu")
