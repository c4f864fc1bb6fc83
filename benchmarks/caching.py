"""Caching beside its controls: schedules that are found, periodic ones, and simply taking fewer steps.

Reference: 50 DDIM steps, same seeds. Plans are found on other prompts and seeds than those reported. All of one model
take turns batch by batch.

usage: python benchmarks/caching.py [--images 24]      prints tables, writes benchmarks/caching.md and .json
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

import gearshift as gs
from gearshift import zoo
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.compare import compare, figures
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine
from gearshift.steps.decision import Action
from gearshift.zoo.data import COLORS, Prompt, prompt_set
from gearshift.zoo.judge import Judge

STEPS, BATCH = 50, 8
COUNTS = (26, 17, 12, 9)
GUIDANCE = {"text-to-image": 5.0, "dit": 4.0}
COLUMNS = [
    Column("computed", "computed steps", format=".0f"),
    Column("seconds", "time", "s/image", ".3f", "lower"),
    Column("speedup", "speed-up", "x", ".2f", "higher", worse="slower"),
    Column("psnr", "PSNR", "dB", ".1f", "higher"),
    Column("ssim", "SSIM", "", ".3f", "higher"),
    Column("garment", "garment", "% right", ".0f", "higher"),
    Column("color", "color", "% right", ".0f", "higher"),
]


def arguments(model: str, prompts: list[Prompt]) -> dict[str, Any]:
    """What the pipeline is called with for these prompts."""
    seeded = [torch.Generator().manual_seed(p.seed) for p in prompts]
    call = {"generator": seeded, "guidance_scale": GUIDANCE[model]}
    if model == "dit":
        return {**call, "class_labels": [p.garment * len(COLORS) + p.color for p in prompts], "output_type": "np"}
    return {**call, "prompt": [p.text for p in prompts], "output_type": "np"}


def maker(model: str, pipe: Any, prompts: list[Prompt], steps: int) -> Callable[[int], torch.Tensor]:
    """What makes one batch of images [n, 3, h, w] in [0, 1]."""

    def make(batch: int) -> torch.Tensor:
        part = prompts[batch * BATCH : (batch + 1) * BATCH]
        images = pipe(num_inference_steps=steps, **arguments(model, part)).images
        return torch.as_tensor(images).permute(0, 3, 1, 2).float()

    return make


def optimized(model: str, recipe: Any, **settings: Any) -> Any:
    return gs.optimize(zoo.load(model), recipe, **settings)


def sampler(model: str, scheduler: Any) -> Any:
    pipe = zoo.load(model)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    return pipe


def variants(model: str, count: int) -> dict[str, tuple[Any, int]]:
    """By name: a pipeline and the number of steps to call it with, all at about `count` computed steps."""
    interval = min(max(round((STEPS - 2) / (count - 2)), 2), 7)
    every = {"cache_interval": interval, "start_step": 2}
    example = {**arguments(model, prompt_set("search", BATCH)), "num_inference_steps": STEPS}
    del example["generator"]
    factor = min(count / STEPS + 0.01, 1.0)
    return {
        "planned (taylor_auto)": (optimized(model, {"taylor_auto": {"speed_factor": factor}}, data=[example]), STEPS),
        "every few, line (taylor)": (optimized(model, {"taylor": {"order": 1, **every}}), STEPS),
        "every few, parabola (taylor)": (optimized(model, {"taylor": {"order": 2, **every}}), STEPS),
        "every few, repeated (periodic)": (optimized(model, {"periodic": every}), STEPS),
        "fewer DDIM steps": (zoo.load(model), count),
        "fewer DPM++ 2M steps": (sampler(model, DPMSolverMultistepScheduler), count),
        "fewer UniPC steps": (sampler(model, UniPCMultistepScheduler), count),
    }


def rows(model: str, images: int) -> list[Row]:
    """Measure one model."""
    prompts = prompt_set("report", images)
    pipes: dict[str, tuple[Any, int]] = {"original": (zoo.load(model), STEPS)}
    for count in COUNTS:
        pipes |= {f"{count}: {name}": found for name, found in variants(model, count).items()}
    calls = {name: maker(model, pipe, prompts, steps) for name, (pipe, steps) in pipes.items()}
    for call in calls.values():
        call(0)
    outcomes = compare(calls, images // BATCH)
    judge = Judge.load()
    wanted = torch.tensor([p.garment for p in prompts]), torch.tensor([p.color for p in prompts])
    found = []
    for name, outcome in outcomes.items():
        pipe, steps = pipes[name]
        logs = list(gs.status(pipe).last_run.values())
        garment, color = judge.accuracy(outcome.images * 2 - 1, *wanted)
        cells = {
            "computed": len(logs[0].steps(Action.COMPUTE)) if logs else steps,
            **figures(outcome, outcomes["original"]),
            "garment": 100 * garment,
            "color": 100 * color,
        }
        found.append(Row(name, "", cells, original=name == "original"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    images = parser.parse_args().images
    warnings.simplefilter("ignore")
    about = f"{machine()}; {images} images, {STEPS} steps, batches of {BATCH}, guidance {GUIDANCE}."
    pages, data = ["# Caching beside its controls\n", f"{about} Reference: {STEPS} DDIM steps, same seeds.\n"], {}
    for model in GUIDANCE:
        measured = rows(model, images)
        pages.append(f"## {model}\n\n{to_markdown(COLUMNS, measured)}")
        data[model] = json.loads(to_json(COLUMNS, measured))
        print(pages[-1], flush=True)
    path = Path(__file__).with_suffix("")
    path.with_suffix(".md").write_text("\n".join(pages))
    path.with_suffix(".json").write_text(json.dumps({"about": about, **data}, indent=1) + "\n")


if __name__ == "__main__":
    main()
