"""A ControlNet beside a cached denoiser: seconds of a call with it computed on every step, and only where it is needed.

The zoo's text-to-image U-Net with a ControlNet made of it: it is not trained, as its speed is what is measured. Calls
of the variants take turns.

usage: python benchmarks/pipelines.py      prints a table and writes benchmarks/pipelines.md and .json
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch

import gearshift as gs
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_markdown, write_tables
from gearshift.evaluate.timing import machine_description
from gearshift.steps.control import ControlGate
from gearshift.steps.gate import gate_of
from gearshift.zoo import load

STEPS, ROUNDS, PROMPT = 50, 5, "ankle boot"
RECIPE = {"taylor": {"cache_interval": 3, "start_step": 2}}
NAMES = ("original", "cached, ControlNet on every step", "cached")


def pipeline() -> Any:
    base = load()
    control = diffusers.ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16, 32, 64)).eval()
    parts = {**base.components, "controlnet": control}
    made = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def variant(name: str) -> Any:
    pipe = pipeline()
    if name != "original":
        gs.optimize(pipe, RECIPE)
        gate = gate_of(pipe.controlnet)
        assert isinstance(gate, ControlGate)
        gate.on = name == "cached"
    return pipe


def measured(pipe: Any, calls: list[int]) -> tuple[float, Any]:
    """Seconds of a call, and its images."""
    calls.clear()
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    drawn = torch.Generator().manual_seed(0)
    images = pipe(PROMPT, image=image, num_inference_steps=STEPS, generator=drawn, output_type="np").images
    return time.perf_counter() - start, torch.from_numpy(images)


def main() -> None:
    torch.set_num_threads(1)
    pipes, counts = {name: variant(name) for name in NAMES}, {name: [] for name in NAMES}  # type: ignore[var-annotated]
    for name, pipe in pipes.items():
        pipe.controlnet.conv_in.register_forward_hook(lambda *_, calls=counts[name]: calls.append(1))
    images = {name: measured(pipe, counts[name])[1] for name, pipe in pipes.items()}
    assert torch.equal(images[NAMES[1]], images[NAMES[2]])
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(ROUNDS):
        for name, pipe in pipes.items():
            seconds[name].append(measured(pipe, counts[name])[0])
    whole = median(seconds["original"])
    columns = [
        Column("seconds", "a call", "s", ".2f", "lower"),
        Column("spread", "spread", "s", ".2f", "lower"),
        Column("speed", "speed", "x", ".2f", "higher"),
        Column("calls", "ControlNet computed", "", ".0f", "lower"),
    ]
    rows = []
    for name, found in seconds.items():
        middle = median(found)
        figures = {"seconds": middle, "spread": max(found) - min(found), "speed": whole / middle}
        rows.append(Row(name, "", {**figures, "calls": float(len(counts[name]))}, original=name == "original"))
    print(to_markdown(columns, rows))
    about = {"machine": machine_description(), "steps": STEPS, "rounds": ROUNDS, "recipe": str(RECIPE)}
    page, _ = write_tables(Path(__file__).with_suffix(""), columns, rows, **about)
    told = (
        f"{machine_description()}. The zoo's text-to-image U-Net and a ControlNet made of it, {STEPS} steps, median of "
        f"{ROUNDS} calls in turns; `taylor` every third step. Both cached variants gave images of equal bits."
    )
    write_atomically(page, f"# A ControlNet on filled-in steps\n\n{told}\n\n{page.read_text()}")


if __name__ == "__main__":
    main()
