"""Peak memory is what torch held at once, not a sum and not a guess."""

import pytest
import torch

from gearshift.core.errors import BadValue, GearshiftError
from gearshift.evaluate.memory import peak_bytes

MIB = 2**20


def block(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8)


def test_the_peak_is_the_most_held_at_once():
    def call():
        a = block(8)
        b = block(4)
        del a
        c = block(2)
        return b, c

    assert peak_bytes(call, device="cpu") == pytest.approx(12 * MIB, rel=0.01)


def test_blocks_that_come_and_go_do_not_add_up():
    def call():
        for _ in range(10):
            block(4)

    assert peak_bytes(call, device="cpu") == pytest.approx(4 * MIB, rel=0.01)


def test_what_was_held_before_counts_neither_way():
    held = [block(16)]

    def call():
        held.clear()
        return block(4)

    assert peak_bytes(call, device="cpu") == pytest.approx(4 * MIB, rel=0.01)


def test_results_of_an_earlier_call_do_not_count():
    kept = []
    first = peak_bytes(lambda: kept.append(block(8)), device="cpu")
    second = peak_bytes(lambda: kept.append(block(2)), device="cpu")
    assert (first, second) == (pytest.approx(8 * MIB, rel=0.01), pytest.approx(2 * MIB, rel=0.01))


def test_operations_inside_modules_are_seen():
    layer = torch.nn.Linear(256, 1024, bias=False)
    x = torch.zeros(512, 256)
    with torch.no_grad():
        peak = peak_bytes(lambda: layer(x).relu(), device="cpu")
    assert peak == pytest.approx(2 * 512 * 1024 * 4, rel=0.1)


def test_nothing_is_printed_and_errors_pass_through(capfd):
    with pytest.raises(ZeroDivisionError):
        peak_bytes(lambda: 1 / 0, device="cpu")
    assert peak_bytes(lambda: None, device="cpu") < 1024
    assert capfd.readouterr() == ("", "")


def test_a_running_profiler_keeps_its_record():
    with torch.autograd.profiler.profile() as running:
        torch.ones(3).add(1)
        with pytest.raises(GearshiftError, match="profiler is running"):
            peak_bytes(lambda: None, device="cpu")
    assert any(e.name == "aten::add" for e in running.function_events)


@pytest.mark.parametrize("device", ["tpu", pytest.param("cuda", marks=pytest.mark.skipif("torch.cuda.is_available()"))])
def test_devices_without_counters_are_refused(device):
    with pytest.raises(BadValue, match="device"):
        peak_bytes(lambda: None, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_peak_on_cuda():
    def call():
        a = torch.empty(8 * MIB, dtype=torch.uint8, device="cuda")
        b = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
        del a
        return b

    assert peak_bytes(call, device="cuda") == pytest.approx(12 * MIB, rel=0.01)
