"""What a graph would not notice is noticed: each kind of change gives another mark, taking it back the first one."""

import torch
from support.each import each
from torch import nn

import gearshift as gs
from gearshift.steps.fingerprint import Fingerprint


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(40, 40)
        self.norm = nn.BatchNorm1d(40).eval()
        self.scales = {"a": 0.5}
        self.how = nn.Module()
        self.how.names = ["a", "b"]
        self.function = torch.relu
        self.loose = [torch.zeros(3)]

    def forward(self, x):
        return self.function(self.layer(x))


def plain(value):
    return lambda: value


CHANGES = {
    "number": (lambda m: setattr(m.norm, "eps", 0.5), lambda m: setattr(m.norm, "eps", 1e-5)),
    "dict": (lambda m: m.scales.update(a=0.25), lambda m: m.scales.update(a=0.5)),
    "key": (lambda m: m.scales.update(b=m.scales.pop("a")), lambda m: m.scales.update(a=m.scales.pop("b"))),
    "list": (lambda m: m.how.names.append("c"), lambda m: m.how.names.pop()),
    "function": (lambda m: setattr(m, "function", torch.tanh), lambda m: setattr(m, "function", torch.relu)),
    "mode": (lambda m: m.norm.train(), lambda m: m.norm.eval()),
    "closure": (lambda m: setattr(m, "extra", plain(1)), lambda m: delattr(m, "extra")),
    "forward": (lambda m: setattr(m.norm, "forward", plain(None)), lambda m: delattr(m.norm, "forward")),
    "buffer": (lambda m: m.norm.running_mean.add_(1), None),
    "loose tensor": (lambda m: m.loose[0].add_(1), lambda m: m.loose[0].sub_(1)),
    "weight": (lambda m: m.layer.weight.mul_(2), lambda m: m.layer.weight.div_(2)),
    ".data": (lambda m: m.layer.weight.data.mul_(2), lambda m: m.layer.weight.data.div_(2)),
    "new .data": (lambda m: setattr(m.layer.weight, "data", m.layer.weight.data.clone()), None),
    "parameter": (lambda m: setattr(m.layer, "weight", nn.Parameter(m.layer.weight.clone())), None),
}


@each("kind", CHANGES)
@torch.no_grad()
def test_each_kind_of_change_is_noticed_and_so_is_that_it_is_taken_back(kind):
    module = Small()
    fingerprint = Fingerprint(module)
    first = fingerprint.now().mark
    assert fingerprint.now().mark == first
    change, back = CHANGES[kind]
    change(module)
    assert fingerprint.now().mark != first
    assert fingerprint.changed
    if back is not None:
        back(module)
        assert fingerprint.now().mark == first


@torch.no_grad()
def test_one_element_and_rows_that_changed_places_are_found_when_a_run_begins():
    module = Small()
    fingerprint, weight = Fingerprint(module), module.layer.weight

    def mark():
        with gs.sampling():
            return fingerprint.now().mark

    first = mark()
    weight.data[3, 4] += 1
    second = mark()
    weight.data.copy_(weight.data.flip(0))
    assert len({first, second, mark()}) == 3


def test_what_is_the_same_elsewhere_has_the_same_form():
    forms = {Fingerprint(Small()).now().mark.form for _ in range(2)}
    assert len(forms) == 1


def test_nan_is_no_change():
    module = Small()
    with torch.no_grad():
        module.layer.weight.fill_(float("nan"))
    fingerprint = Fingerprint(module)
    assert fingerprint.now().mark == fingerprint.now().mark


def test_what_a_module_writes_itself_is_no_change():
    module = Small()
    fingerprint = Fingerprint(module)
    fingerprint.now()
    module.calls = 1
    seen = fingerprint.forgive().mark
    module.calls = 2
    assert fingerprint.now().mark == seen
    module.other = 1
    assert fingerprint.now().mark != seen
