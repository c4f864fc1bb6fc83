"""What is mutated and read: saved folders, plans, recipes, checkpoints of other programs, and arguments."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from support.fuzz.mutations import ODD, mutated, scribbled, spoilt, written
from support.tiny import build

import gearshift as gs
from gearshift.persist.manifest import MANIFEST
from gearshift.precision import quick_schedule
from gearshift.steps.schedule import Schedule

GOLDEN = Path(__file__).parents[2] / "golden"
Act = Callable[[Random, Path], Any]  # draws a case, writes it into an empty folder and reads it

RECIPES = (
    "qkv_diffusers, taylor(order=1)",
    "taylor_auto(speed_factor=0.2), torch_dynamic, seed=3",
    "fora(interval=3, start_step=2) + half",
    "adaptive_precision(profile=performance, min_quality=0.5)",
    "torch_compile(mode=default, fullgraph=true, dynamic=null)",
    'gptq(weight_bits=4, group_size=64), exclude=["a.*", b]',
)
FILES = (
    "algorithms:\n- qkv_diffusers\n- taylor: {order: 1, cache_interval: 3}\nbatch_size: 4\nseed: 3\n",
    "taylor:\n  order: 1\ntorch_dynamic: true\nexclude: ['x.*']\n",
    "- half\n- fora: {interval: 3}\n",
    "adaptive_precision:\n  profile: {name: x, zones: [{start: 0.0, end: 1.0, precision: int8}]}\n  min_quality: .5\n",
    "algorithms: [taylor, {half: null}]\ninclude: [a, b]\ndevice: cpu\n",
)


def manifest() -> Act:
    """Saved folders, with a mutated manifest or with mutated files whose hashes the manifest was given."""
    folders = sorted(p.parent for p in GOLDEN.glob(f"*/*/{MANIFEST}"))

    def act(draw: Random, place: Path) -> None:
        folder = Path(shutil.copytree(draw.choice(folders), place / "saved"))
        path = folder / MANIFEST
        if draw.random() < 0.6:
            told = json.loads(path.read_text())
            for applied in told["applied"]:
                applied["figures"] = {}  # most of a manifest, and free in form
            path.write_bytes(written(mutated(told, draw), draw))
        else:
            told = json.loads(path.read_text())
            path.unlink()
            spoilt(folder, draw)
            if draw.random() < 0.9:
                found = [p for p in folder.rglob("*") if p.is_file()]
                told["files"] = {p.relative_to(folder).as_posix(): _sha256(p) for p in found}
            path.write_text(json.dumps(told))
        gs.load(folder)

    return act


def plan() -> Act:
    """Plans, read and then used."""
    pipe = build("dit").pipe
    schedule = Schedule((0, 1, 3, 6), {2: (0.5, 0.5), 4: (1.0, 0.25, 0.25)})
    made = gs.Plan("8", 8, schedule, "half", gears=quick_schedule("balanced", 8), error=0.1, fraction=0.5, memory=0.5)

    def act(draw: Random, place: Path) -> None:
        path = made.save(place / "plan.json")
        path.write_bytes(written(mutated(json.loads(path.read_text()), draw), draw))
        found = gs.Plan.load(path)
        str(found), found.resampled(5), found.save(place / "again.json")
        if draw.random() < 0.1:
            try:
                found.apply(pipe)
            finally:
                if gs.status(pipe).applied:
                    gs.restore(pipe)

    return act


def recipe() -> Act:
    """Recipes as strings, files and dicts; what is read is read back from what it is written as."""

    def act(draw: Random, place: Path) -> None:
        way = draw.randrange(3)
        if way == 0:
            found = gs.Recipe.of(scribbled(draw.choice(RECIPES), draw))
        elif way == 1:
            (place / "recipe.yaml").write_text(scribbled(draw.choice(FILES), draw), encoding="utf-8", newline="")
            found = gs.Recipe.of(place / "recipe.yaml")
        else:
            found = gs.Recipe.of(mutated(gs.Recipe.of(draw.choice(RECIPES)).to_dict(), draw))
        assert gs.Recipe.of(str(found)) == found == gs.Recipe.of(found.to_dict())
        (place / "again.yaml").write_text(found.to_yaml(), encoding="utf-8", newline="")
        assert gs.Recipe.of(place / "again.yaml") == found

    return act


def checkpoint() -> Act:
    """A language model in GPTQ's format: its configuration, its tensors, its files."""
    model = build("llama").pipe
    bits, group, state = 4, 16, {}
    for name, tensor in model.state_dict().items():
        path, _, last = name.rpartition(".")
        if last == "weight" and tensor.ndim == 2 and "layers" in path and "norm" not in path:
            (out, width), groups = tensor.shape, -(-tensor.shape[1] // group)
            state[f"{path}.qweight"] = torch.randint(-(2**31), 2**31 - 1, (width * bits // 32, out), dtype=torch.int32)
            state[f"{path}.qzeros"] = torch.full((groups, out * bits // 32), 0x77777777, dtype=torch.int32)
            state[f"{path}.scales"] = torch.full((groups, out), 0.01).half()
            state[f"{path}.g_idx"] = (torch.arange(width) // group).int()
        else:
            state[name] = tensor.clone()
    told = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False}
    config = {**json.loads(model.config.to_json_string(use_diff=False)), "quantization_config": told}

    def act(draw: Random, place: Path) -> None:
        tensors, settings = dict(state), json.dumps(config).encode()
        if draw.random() < 0.5:
            settings = written(mutated(config, draw), draw)
        else:
            _change_tensor(tensors, draw)
        (place / "config.json").write_bytes(settings)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        if draw.random() < 0.2:
            spoilt(place, draw)
        gs.read_checkpoint(place)

    return act


def arguments() -> Act:
    """Calls of the library with whatever comes."""
    pipe = build("dit").pipe
    models = [pipe, pipe, pipe, build("llama").pipe, object(), torch.nn.Linear, float, "x", None, 5]
    recipes = ["fora", "taylor, half", "auto", "torch_dynamic", "qkv_diffusers", "nothing", "half"]
    odd = [*ODD, object(), object, b"x", math.nan, (1,), {1: 2}, set(), lambda: 1, torch.ones(2), "\ud800", 10**5000]
    settings = (*gs.core.recipe.SETTINGS, "taylor", "order", "profile", "keep", "batchsize")  # type: ignore[attr-defined]
    sizes = ("resolutions", "batch_sizes", "lengths", "steps", "data")

    def act(draw: Random, place: Path) -> None:
        def one() -> Any:
            return copy.copy(draw.choice(odd))

        model, given = draw.choice(models), draw.choice([draw.choice(recipes), one(), {draw.choice(recipes): one()}])
        more = {draw.choice(settings): one()}
        calls: list[Callable[[], Any]] = [
            lambda: gs.Recipe.of(given, **more),
            lambda: gs.problems(model, given, **more),
            lambda: gs.load(one()),
            lambda: gs.load(draw.choice(sorted(GOLDEN.glob("*/half*"))), device=one()),
            lambda: gs.read_checkpoint(one()),
            lambda: gs.Plan.load(one()),
            lambda: gs.save(model if model is not pipe else None, one() if draw.random() < 0.5 else place / "saved"),
            lambda: gs.status(model),
            lambda: gs.plan(model, speed=one(), data=one()),
            lambda: gs.plan(pipe, **{draw.choice(("speed", "quality", "memory", "mode")): one()}),
            lambda: gs.warm_up(model, **{draw.choice(sizes): one()}),
            lambda: gs.optimize(object() if model is pipe else model, given, **more),
            lambda: gs.restore(model if model is not pipe else None),
        ]
        here = Path.cwd()
        os.chdir(place)  # odd names may well be written
        try:
            draw.choice(calls)()
        finally:
            os.chdir(here)

    return act


def _change_tensor(tensors: dict[str, torch.Tensor], draw: Random) -> None:
    name = draw.choice(sorted(tensors))
    tensor, way = tensors[name], draw.randrange(8)
    if way == 0:
        del tensors[name]
    elif way == 1:
        tensors[name] = tensor.reshape(-1)[: max(1, tensor.numel() // 2)].clone()
    elif way == 2:
        tensors[name] = tensor.to(draw.choice((torch.float32, torch.int64, torch.uint8, torch.float16)))
    elif way == 3:
        tensors["nope.layers.0.qweight"] = tensor.clone()
    elif way == 4:
        tensors[name] = tensor[:0].clone()
    elif way == 5:
        tensors[name] = tensor.reshape(*tensor.shape, 1).clone()
    elif way == 6:
        tensors[draw.choice(sorted(tensors))] = tensor.clone()
    elif tensor.is_floating_point():
        tensors[name] = tensor * draw.choice((math.inf, math.nan, 0.0))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
