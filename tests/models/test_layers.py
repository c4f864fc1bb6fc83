"""Which layers quantizers take, and that those they leave are named with a reason."""

import pytest
import torch
from support.each import each
from torch import nn
from torch.nn import functional as F

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.core.recipe import Recipe
from gearshift.models.describe import passed_over
from gearshift.models.layers import replaceable

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Named(nn.Linear):
    """Nothing of its own."""


class Own(nn.Linear):
    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Gated(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight, self.bias).sigmoid()


class Router(nn.Linear):
    def forward(self, x, noise):
        return F.linear(x + noise, self.weight)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 64, 64))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.named, self.own, self.gated, self.router = (c(64, 64) for c in (Named, Own, Gated, Router))
        self.experts, self.attention = Experts(), nn.MultiheadAttention(64, 2)
        self.infinite = nn.Linear(64, 64)
        self.infinite.weight.data[3, 3] = float("inf")

    def forward(self, x):
        return self.gated(self.own(self.named(x)))


def test_subclasses_that_compute_what_nn_linear_does_are_taken():
    found = {path: reason for path, _, reason in replaceable(Whole(), (nn.Linear,))}
    assert {path for path, reason in found.items() if reason is None} == {"named", "own"}
    assert "something else" in found["gated"] and "something else" in found["router"]
    assert "MultiheadAttention" in found["attention.out_proj"] and "infinities" in found["infinite"]


@each("name", ["torch_dynamic", "fp8", "quanto", "torchao", "torch_static"])
def test_they_are_replaced_and_the_others_are_named(name):
    model, x = Whole(), torch.randn(3, 64)
    exact = model(x)
    gs.optimize(model, name, data=[x])
    figures = gs.status(model).applied[0]["figures"]
    assert figures["layers"] == 2 and not isinstance(model.own, Own) and isinstance(model.own, nn.Linear)
    assert figures["left"].keys() >= {"gated", "router", "attention.out_proj", "infinite", "experts.up"}
    assert "3 dimensions" in figures["left"]["experts.up"]
    assert (model(x) - exact).norm() < 0.1 * exact.norm()


def test_a_quantizer_that_takes_nothing_says_why():
    with pytest.warns(GearshiftWarning, match="Gated computes something else than nn.Linear"):
        gs.optimize(nn.Sequential(Gated(8, 8)), "fp8")


def test_what_a_recipe_does_not_ask_for_is_not_named():
    assert passed_over(Whole(), (nn.Linear,), Recipe.of("fp8", include=["own", "router"])).keys() == {"router"}
