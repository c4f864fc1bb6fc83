"""Every algorithm of the registry on the smallest tiny model of its kind."""

import pytest
import torch

import gearshift as gs
from gearshift.algorithms.distillers import hyper
from gearshift.core.facts import Family, Kind, Trait
from gearshift.measure import timing

from .tiny import TinyLanguage, build

KINDS = {"llama": Kind.LANGUAGE, "dit": Kind.DIFFUSION, "sd": Kind.DIFFUSION, "flux": Kind.DIFFUSION}
PARAMS = {"torchao_autoquant": {"compile": False}, "torch_structured": {"sparsity": 0.5}}


def tiny_for(cls):
    """The smallest tiny model that an algorithm works on; None if there is none."""
    for name, kind in KINDS.items():
        if kind in cls.facts.kinds and (name == "sd" or Trait.UNET not in cls.facts.needs):
            tiny = build(name)
            if not gs.problems(tiny.pipe, recipe(cls), data=lesson(tiny, cls)):
                return name
    return None


def recipe(cls):
    return {cls.name: PARAMS.get(cls.name, {})}


def lesson(tiny, cls):
    trains = cls.facts.family in (Family.RECOVERER, Family.DISTILLER)
    if isinstance(tiny, TinyLanguage):
        return [tiny.call(256 if trains else 64)]
    return [{**tiny.parts.call(1), "num_inference_steps": 3}] if trains else None


@pytest.fixture
def quick(monkeypatch):
    """Nothing is timed, so that two goes decide alike; distilling is short; what would be compiled runs as it is."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(timing, "speed_ratio", lambda *_: 2.0)
    monkeypatch.setattr(hyper, "EPOCHS", 1)


def optimized(tiny, cls, **settings):
    """The tiny model with one algorithm applied to it."""
    return gs.optimize(tiny.pipe, recipe(cls), data=lesson(tiny, cls), **settings)
