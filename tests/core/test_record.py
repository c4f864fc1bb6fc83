"""What a record takes off, and what it refuses to."""

import pytest
import torch

from gearshift.core.change import Change
from gearshift.core.errors import CannotRestore
from gearshift.core.record import Applied, Record
from gearshift.core.target import Swap


class Rounds(Change):
    """Gives back something that is not the original."""

    gives_back = True

    def __init__(self):
        self.calls = []

    def apply(self):
        self.calls.append("apply")

    def revert(self):
        self.calls.append("revert")

    def irreversible_reason(self):
        return "rounded"


def test_what_gives_weights_back_is_taken_off_only_where_the_original_is_not_asked_for():
    change = Rounds()
    record = Record([Applied(None, [change])], on=1)
    with pytest.raises(CannotRestore, match="rounded"):
        record.revert()
    assert not change.calls and record.on == 1
    record.revert(exact=False)
    record.apply(1)
    assert change.calls == ["revert", "apply"] and record.on == 1


def test_what_gives_nothing_back_is_never_taken_off():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    layer = model[0]
    record = Record([Applied(None, [Rounds(), Swap(model, "0", layer, None, "test")])], on=1)
    with pytest.raises(CannotRestore, match="originals were not kept"):
        record.revert(exact=False)
    assert model[0] is layer and record.on == 1 and record.applied[0].changes[0].calls == []
