"""Breaking off what runs in gearshift at one of its lines, and what of a model and the process is to be as before."""

import json
import logging
import os
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

import gearshift
from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.model import parts
from gearshift.core.snapshot import Snapshot
from gearshift.core.transaction import Transaction

HOME = str(Path(gearshift.__file__).parent)
AROUND = ("transaction.py", "snapshot.py", "surroundings.py")  # signals wait there
VERBS = ("optimize", "follow", "plan", "restore", "disabled", "warm_up")  # between its lines nothing is raised


class Lines:
    """Counts the lines that run in gearshift, or raises an error at one of them.

    Attributes:
        laying: numbers of the lines at which a change is put on a model.
    """

    def __init__(self, at=None, error=None):
        self.at, self.error, self.count, self.laying, self.importing = at, error, 0, [], 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def _call(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(HOME) or frame.f_code.co_filename.endswith(AROUND):
            return None
        if frame.f_code.co_name == "<module>":  # what is imported is so but once
            self.importing += 1
            return self._imported
        return None if self.importing or frame.f_code.co_name in VERBS else self._line

    def _imported(self, frame, event, arg):
        self.importing -= event == "return"
        return self._imported

    def _line(self, frame, event, arg):
        if event == "line":
            self.count += 1
            if frame.f_code.co_name in ("put", "stand") or _applies_a_change(frame):
                self.laying.append(self.count)
            if self.count == self.at:
                raise self.error
        return self._line


def _applies_a_change(frame):
    return frame.f_code.co_name == "apply" and isinstance(frame.f_locals.get("self"), Change)


def look(model, same=True):
    """Types, tensors, gradients' and training modes, attributes and configurations, to be compared with `==`.

    Args:
        same: tensors and gates are the same objects, too, not only equal ones.
    """
    found = {"class": type(model), "own": sorted(vars(model))}
    for part, root in parts(model).items():
        for path, module in root.named_modules():
            gate = vars(module).get("forward")
            inside = {k: id(v) for k, v in vars(gate).items()} if gate is not None and same else {}
            found[part, path] = type(module), module.training, sorted(vars(module)), same and id(gate), inside
        for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
            bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            found[part, name, "tensor"] = same and id(tensor), tensor.requires_grad, tensor.dtype, tensor.stride(), bits
        found[part, "tied"] = len({id(p) for p in root.parameters()})
        found[part, "config"] = str(getattr(root, "config", None))
    scheduler = getattr(model, "scheduler", None)
    if scheduler is not None:
        found["scheduler"] = id(scheduler), sorted(vars(scheduler)), json.dumps(str(scheduler.config))
    return found


def back_and_on_at_every_change(monkeypatch, model, before):
    """Let every change that is put on a model be followed by going all the way back, which is looked at, and on again.

    Returns:
        A list that is given what was not as before, of each change.
    """
    enter, change, transactions, found = Transaction.__enter__, Context.change, [], []

    def entered(self):
        transactions.append(self)
        return enter(self)

    def changed(self, made):
        change(self, made)
        here = Snapshot(model, self)
        transactions[0]._snapshot.back()
        found.append(apart(before, look(model)))
        here.back()

    monkeypatch.setattr(Transaction, "__enter__", entered)
    monkeypatch.setattr(Context, "change", changed)
    return found


def process():
    """What a verb has to leave as it was outside of the model."""
    loggers = logging.Logger.manager.loggerDict
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "levels": {n: v.level for n, v in loggers.items() if isinstance(v, logging.Logger)},
        "filters": list(map(str, warnings.filters)),
        "modes": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "precision": torch.get_float32_matmul_precision(),
    }


def apart(before, after):
    """Names of what is not as it was; loggers that are new do not count."""
    levels = {n: after["levels"][n] for n in before["levels"]} if "levels" in before else {}
    after = {**after, "levels": levels} if levels else after
    return sorted(map(str, {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}))
