"""Every recipe: optimize, run, save, load in a fresh process, and the output is equal bit for bit."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import TinyLanguage, build

import gearshift as gs
from gearshift.core.errors import GearshiftWarning
from gearshift.core.facts import Family, Kind, Trait
from gearshift.core.registry import registry

TESTS = Path(__file__).parents[1]
OWN_TESTS = ("torch_compile", "torchao_autoquant", "hyper")  # they compile, or distil for long
MODELS = {
    Kind.LANGUAGE: {None: ["llama"]},
    Kind.DIFFUSION: {
        Family.CACHER: ["dit", "flux", "sd"],
        Family.QUANTIZER: ["sd"],
        Family.PRUNER: ["sd"],
        None: ["dit", "flux"],
    },
}


def models(cls):
    """Which tiny models an algorithm is saved on: one of each kind, so that each family meets several."""
    kinds = [choices for kind, choices in MODELS.items() if kind in cls.facts.kinds]  # in one order in all processes
    turn = sorted(c.name for c in registry()).index(cls.name)
    for choice in [kind.get(cls.facts.family, kind[None]) for kind in kinds]:
        yield "sd" if Trait.UNET in cls.facts.needs else choice[turn % len(choice)]


CASES = {
    f"{model}-{cls.name}": (model, cls.name)
    for cls in registry()
    if cls.name not in OWN_TESTS and Trait.TORCH_FORWARD not in cls.facts.removes  # a runtime: tests/runtimes
    for model in models(cls)
} | {
    "sd-joined": ("sd", "qkv_diffusers, torch_dynamic, deepcache"),
    "wan-joined": ("wan", "qkv_diffusers, torch_dynamic, taylor(order=1)"),
    "sd3-joined": ("sd3", "qkv_diffusers, half, fora(interval=3)"),
}
TRAINED = {c.name for c in registry() if c.facts.family is Family.RECOVERER}
SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
import warnings; warnings.simplefilter("ignore")
import gearshift as gs
from safetensors.torch import save_file
from support.tiny import build
cases, out = {cases!r}, {{}}
tinies = {{model: build(model) for model in cases.values()}}
for case, model in cases.items():
    pipe = gs.load({root!r} + "/" + case)
    out[case] = tinies[model].run(steps=6, pipe=pipe)
    assert type(pipe).__name__ == type(tinies[model].pipe).__name__
save_file(out, {root!r} + "/out.safetensors")
"""


def lesson(tiny):
    """What a tiny model is trained on, quickly."""
    return [tiny.call(256)] if isinstance(tiny, TinyLanguage) else [{**tiny.parts.call(1), "num_inference_steps": 3}]


@pytest.fixture(scope="module")
def round_trip(request, tmp_path_factory):
    """Outputs here and in a fresh process, by case, of the cases that were asked for."""
    asked = {item.callspec.params["case"] for item in request.session.items if item.path == request.path}
    cases = {name: case for name, case in CASES.items() if name in asked}
    root = tmp_path_factory.mktemp("saved")
    here, refused = {}, {}
    for case, (model, recipe) in cases.items():
        tiny = build(model)
        if gs.problems(tiny.pipe, recipe):
            refused[case] = gs.problems(tiny.pipe, recipe)[0]
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GearshiftWarning)
            gs.optimize(tiny.pipe, recipe, data=lesson(tiny) if recipe in TRAINED else None)
            tiny.run(steps=6)  # planners find their schedule in a first run
            here[case] = tiny.run(steps=6)
            gs.save(tiny.pipe, root / case)
            assert torch.equal(tiny.run(steps=6), here[case]), "saving changed the model"
    save_file(here, root / "here.safetensors")
    code = SCRIPT.format(tests=str(TESTS), cases={c: m for c, (m, _) in cases.items() if c in here}, root=str(root))
    subprocess.run([sys.executable, "-c", code], check=True)
    return root, here, load_file(root / "out.safetensors"), refused


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_gives_equal_bits_in_a_fresh_process_from_safetensors_and_json(round_trip, case):
    root, here, there, refused = round_trip
    if case in refused:
        pytest.skip(refused[case])
    assert torch.equal(here[case], there[case])
    assert {p.suffix for p in (root / case).rglob("*") if p.is_file()} == {".json", ".safetensors"}
