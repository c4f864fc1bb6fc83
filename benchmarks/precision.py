"""Precision over the steps: a measured plan beside its controls, at equal memory-time.

Memory-time is the bytes of weights that the denoiser's steps read, over those of the same steps in the high gear: what
low gears save on every machine, also where their arithmetic is no faster. Plans are found on 'search' prompts and
reported on others; PSNR is to the same seeds in the high gear throughout. Seconds of the gears are measured here too.

usage: python benchmarks/precision.py [--images 16] [--models text-to-image dit flux] [--budget 0.7]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caching
import torch
from joint_plans import BATCH, STEPS, Together, apart, cost_of
from torch import nn

import gearshift as gs
from gearshift import zoo
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine_description
from gearshift.models.diffusers import denoisers
from gearshift.planner.call import call_to_rehearse
from gearshift.planner.gear_rehearsal import GearRehearsals
from gearshift.precision import Precision, PrecisionSchedule, quick_schedule
from gearshift.precision.gear_timing import time_layers
from gearshift.precision.gears import LOW, Geared, high_gear
from gearshift.quant.formats.int8 import dequantize
from gearshift.quant.formats.nested import nest
from gearshift.steps.gate import gate_of


@dataclass
class Subject:
    """A model with gears in its layers, and its images in the high gear."""

    name: str
    pipe: Any
    controller: Any
    own: Precision
    reference: torch.Tensor
    prompts: list[Any]

    @staticmethod
    def of(name: str, images: int) -> Subject:
        pipe = zoo.load(name)
        (module,) = denoisers(pipe).values()
        own = high_gear(module)
        gs.optimize(pipe, {"adaptive_precision": {"target": "memory"}})
        prompts = caching.prompt_set("report", images)
        found = Subject(name, pipe, gate_of(module).gears, own, torch.empty(0), prompts)
        found.reference = found.images([own] * STEPS)
        return found

    def images(self, precisions: list[Precision], steps: int = STEPS) -> torch.Tensor:
        """The held-out images under a schedule."""
        self.controller.schedules = {str(steps): PrecisionSchedule("fixed", tuple(precisions))}
        batches = [self.prompts[i : i + BATCH] for i in range(0, len(self.prompts), BATCH)]
        return torch.cat([caching.images_of(self.name, self.pipe, batch, steps) for batch in batches])

    def psnr(self, images: torch.Tensor) -> float:
        squared = (images - self.reference).double().square().flatten(1).mean(1).clamp_min(1e-12)
        return float((-10 * squared.log10()).mean())

    def rehearsals(self, prompts: int = 4) -> GearRehearsals:
        call = {**caching.arguments(self.name, caching.prompt_set("search", prompts)), "num_inference_steps": STEPS}
        del call["generator"]
        made = call_to_rehearse(self.pipe, [call])
        assert made is not None
        return GearRehearsals(self.controller, made, {**{p: p.memory_ratio() for p in LOW}, self.own: 1.0})


def controls(own: Precision, budget: float) -> dict[str, list[Precision]]:
    """Schedules of the preset's gears in other orders, and one precision throughout."""
    preset = [p if p in LOW else own for p in quick_schedule("balanced", STEPS).precisions]
    found = {"preset (balanced)": preset, "reversed": preset[::-1]}
    for seed in range(3):
        found[f"random order {seed + 1}"] = random.Random(seed).sample(preset, STEPS)
    low = round(STEPS * (1 - budget) / (1 - Precision.INT8.memory_ratio()))
    even = [own] * STEPS
    for i in range(low):
        even[int(i * STEPS / low)] = Precision.INT8
    found["INT8 on even steps of the same cost"] = even
    return found | {"INT8 throughout": [Precision.INT8] * STEPS, "INT4 throughout": [Precision.INT4] * STEPS}


def rows(subject: Subject, budget: float) -> tuple[list[Row], str]:
    """One model's table, and what it comes to."""
    search = subject.rehearsals()
    plans = {f"measured plan, {b:.2f}": search.best(b) for b in (budget, 0.5, 0.35)}
    found = []

    def add(name: str, precisions: list[Precision], line: str = "") -> float:
        psnr = subject.psnr(subject.images(precisions))
        found.append(Row(name, line, {"cost": cost_of(precisions, subject.own), "psnr": psnr}))
        return psnr

    read = {name: add(name, list(plan.schedule.precisions), plan.line) for name, plan in plans.items()}
    rivals = {name: add(name, precisions) for name, precisions in controls(subject.own, budget).items()}
    fewer = round(budget * STEPS)
    psnr = subject.psnr(subject.images([subject.own] * fewer, fewer))
    found.append(Row(f"fewer steps ({fewer}), high gear", "", {"cost": budget, "psnr": psnr}))
    rivals[found[-1].name] = psnr
    return found, verdict(subject.name, budget, read, rivals, {r.name: float(r.cells["cost"]) for r in found})  # type: ignore[arg-type]


def verdict(
    model: str, budget: float, read: dict[str, float], rivals: dict[str, float], costs: dict[str, float]
) -> str:
    """The plan against the preset, and every control of no more cost that is ahead of it."""
    plan = read[f"measured plan, {budget:.2f}"]
    ahead = [f"{n} by {v - plan:.1f} dB" for n, v in rivals.items() if v > plan and costs[n] <= budget + 0.01]
    behind = "; behind " + ", ".join(ahead) if ahead else "; not below any control of its cost"
    return (
        f"- {model}: {plan - rivals['preset (balanced)']:+.1f} dB against the preset at the same memory-time{behind}."
    )


def joint(name: str, images: int) -> tuple[list[Row], list[str]]:
    """Joint plans beside caching alone, precision alone and both found apart, at 3, 5 and 8 times less memory-time."""
    together, subject = Together.of(name, images), Subject.of(name, images)
    search, found, said = subject.rehearsals(), [], []
    for times in (3, 5, 8):
        budget = 1 / times
        plans = {"joint plan": together.planned(budget, True), "caching alone": together.planned(budget, False)}
        plans["both, found apart"] = apart(together, search, budget)
        read = {}
        for way, plan in plans.items():
            read[way] = subject.psnr(together.images(plan))
            cells = {"cost": together.cost(plan), "psnr": read[way]}
            found.append(Row(f"{times}x: {way}", together.line(plan), cells))
        if budget >= Precision.INT4.memory_ratio():
            plan = search.best(budget)
            read["precision alone"] = subject.psnr(subject.images(list(plan.schedule.precisions)))
            cells = {"cost": plan.cost, "psnr": read["precision alone"]}
            found.append(Row(f"{times}x: precision alone", plan.line, cells))
        rival = max((v, n) for n, v in read.items() if n != "joint plan")
        said.append(f"- {name}, {times}x: the joint plan is {read['joint plan'] - rival[0]:+.1f} dB beside {rival[1]}.")
    return found, said


def stores(subject: Subject) -> list[Row]:
    """Bytes a weight and SQNR of the nested store, over the denoiser's layers that have gears."""
    pipe = zoo.load(subject.name)
    (module,) = denoisers(pipe).values()
    weights = [m.weight.detach() for m in module.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    made = [nest(w) for w in weights]
    count = sum(w.numel() for w in weights)
    readings: list[tuple[str, Callable[[Any], torch.Tensor]]] = [
        ("16 bits, all planes", lambda s: s.sixteen_bits()),
        ("INT8, two planes", lambda s: dequantize(s.eight_bits())),
        ("INT4, one plane", lambda s: dequantize(s.four_bits())),
    ]
    found = []
    for (name, read), dropped in zip(readings, ("rest", "fine", "fine"), strict=True):
        noise = sum(float((read(s) - w).square().sum() / w.square().sum()) for s, w in zip(made, weights, strict=True))
        size = sum(s.nbytes for s in made) / count
        found.append(Row(f"{subject.name}: {name}", "", {"size": size, "sqnr": -10 * math.log10(noise / len(made))}))
        for store in made:
            setattr(store, dropped, None)
    return found


def seconds(name: str) -> list[Row]:
    """Milliseconds of all geared layers, once each, at the shapes of one call with eight prompts."""
    pipe = zoo.load(name)
    call = caching.arguments(name, caching.prompt_set("search", BATCH))
    times = time_layers(pipe, data=[{**call, "num_inference_steps": 1}])
    high = times[max(times)]
    return [Row(f"{name}: {p.name}", "", {"ms": 1000 * t, "ratio": t / high}) for p, t in times.items()]


def switching(subject: Subject) -> Row:
    """What going from INT8 to INT4 costs where only the gear in use keeps its operands, over the seconds of a step."""
    (module,) = denoisers(subject.pipe).values()
    gates = [g for m in module.modules() if isinstance(g := gate_of(m), Geared)]
    turns = []
    for _ in range(5):
        for precision in LOW:
            start = time.perf_counter()
            for gate in gates:
                gate.operand(precision)
            turns.append(time.perf_counter() - start)
    start = time.perf_counter()
    subject.images([subject.own] * STEPS)
    step = (time.perf_counter() - start) / STEPS / math.ceil(len(subject.prompts) / BATCH)
    changes = len(quick_schedule("balanced", STEPS).transitions)
    once = min(turns)
    return Row(
        subject.name, "", {"ms": 1000 * once, "step": 100 * once / step, "mean": 100 * changes * once / step / STEPS}
    )


PLANS = [Column("cost", "memory-time", "of high", ".2f"), Column("psnr", "PSNR", "dB", ".1f", "higher")]
STORES = [Column("size", "bytes", "a weight", ".3f"), Column("sqnr", "SQNR", "dB", ".1f", "higher")]
SWITCHES = [
    Column("ms", "all layers", "ms", ".1f"),
    Column("step", "of a step", "%", ".1f"),
    Column("mean", "balanced preset, mean over its steps", "% of a step", ".2f"),
]
SPEEDS = [Column("ms", "layers", "ms", ".1f"), Column("ratio", "time over high", "x", ".2f")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--models", nargs="+", choices=caching.GUIDANCE, default=list(caching.GUIDANCE))
    parser.add_argument("--budget", type=float, default=0.7)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    about = (
        f"{machine_description()}; {STEPS} steps, {options.images} held-out images, plans found with 4 other prompts."
    )
    pages, data, said = ["# Precision over the steps\n", f"{about}\n"], {}, []
    stored, timed, switched, joined = [], [], [], []
    for model in options.models:
        subject = Subject.of(model, options.images)
        table, sentence = rows(subject, options.budget)
        pages.append(f"## {model}\n\n{to_markdown(PLANS, table)}")
        data[model] = json.loads(to_json(PLANS, table))
        said.append(sentence)
        table, sentences = joint(model, options.images)
        pages.append(f"### {model}, steps and gears together\n\n{to_markdown(PLANS, table)}")
        data[f"{model}, together"] = json.loads(to_json(PLANS, table))
        joined += sentences
        switched.append(switching(subject))
        stored += stores(subject)
        timed += seconds(model)
        print("\n".join([*pages[-2:], sentence, *sentences]), flush=True)
    pages.append("## At equal memory-time\n\n" + "\n".join(said) + "\n")
    pages.append("## Steps and gears planned together, beside the best other way\n\n" + "\n".join(joined) + "\n")
    pages.append(f"## The nested store\n\n{to_markdown(STORES, stored)}")
    pages.append(f"## Making the operands of another low gear\n\n{to_markdown(SWITCHES, switched)}")
    pages.append(f"## Seconds of the gears here\n\n{to_markdown(SPEEDS, timed)}")
    if len(options.models) < len(caching.GUIDANCE):
        return
    path = Path(__file__).with_suffix("")
    write_atomically(path.with_suffix(".md"), "\n".join(pages))
    extra = {"about": about, "verdict": said, "together": joined, "store": json.loads(to_json(STORES, stored))}
    extra["switching"] = json.loads(to_json(SWITCHES, switched))
    extra["seconds"] = json.loads(to_json(SPEEDS, timed))
    write_atomically(path.with_suffix(".json"), json.dumps({**extra, **data}, indent=1) + "\n")


if __name__ == "__main__":
    main()
