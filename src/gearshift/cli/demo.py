"""gearshift demo: the main job, on the model that ships."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearshift.core.boundary import path_of, refuse_unwritable
from gearshift.core.errors import GearshiftError
from gearshift.core.extras import need
from gearshift.core.model import size_bytes
from gearshift.persist.store import refuse_foreign

STEPS, GUIDANCE, BATCH = 50, 5.0, 8
WIDTH = 100
ORIGINAL = "original"
LEAST_PSNR, ACCURACY_SLACK = 33.0, 0.02
RECIPES = {
    "taylor": "taylor(order=1, cache_interval=3, start_step=3)",
    "planned 1/2": "taylor_auto(speed_factor=0.5)",
    "planned 1/5": "taylor_auto(speed_factor=0.2)",
    "deepcache": "deepcache(interval=3)",
    "int8": "qkv_diffusers, torch_dynamic",
    "int8 + deepcache": "qkv_diffusers, torch_dynamic, deepcache(interval=3)",
    "int8 + planned": "qkv_diffusers, torch_dynamic, taylor_auto(speed_factor=0.2)",
}
COMPILED = {"compiled + planned": "torch_compile, taylor_auto(speed_factor=0.2)"}


@dataclass
class Variant:
    """A recipe on its own copy of the pipeline, and what was measured of it."""

    name: str
    recipe: str
    pipe: Any
    disk: int
    memory: int = 0


def run(arguments: argparse.Namespace) -> None:
    """Measure the recipes against the original, print the table, write the report, keep the best."""
    need("diffusers", "demo", "gearshift demo")
    from gearshift.zoo.quiet import quiet_libraries

    with quiet_libraries():
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from gearshift.evaluate.compare import compare, text_to_image
    from gearshift.evaluate.table import render
    from gearshift.zoo.data import prompts

    if arguments.images < 1:
        raise GearshiftError(f"--images must be 1 or more. Got {arguments.images} instead.")
    out = path_of(arguments.out, "--out")
    refuse_unwritable(out / "report.html")
    refuse_foreign(out / "model")
    console = Console()
    console = console if console.width >= WIDTH else Console(width=WIDTH)
    wanted = (prompts() * -(-arguments.images // 80))[: arguments.images]
    texts, seeds = [p.text for p in wanted], list(range(len(wanted)))
    variants = {v.name: v for v in _variants({**RECIPES, **(COMPILED if arguments.compile else {})}, console)}
    calls = {
        name: text_to_image(v.pipe, texts, seeds, BATCH, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
        for name, v in variants.items()
    }
    batches = -(-len(texts) // BATCH)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=batches * len(calls))
        outcomes = compare(calls, batches, lambda: progress.advance(task))
    rows = _rows(variants, outcomes, wanted)
    console.print(render(_columns(), [replace(row, recipe="") for row in rows]))
    for name, variant in variants.items():
        if variant.recipe:
            console.print(f"{name}: {variant.recipe}", soft_wrap=True, highlight=False)
    report = _write_report(out / "report.html", variants, outcomes, rows, texts)
    console.print(f"Report: {report}")
    best = next((r.name for r in rows if r.best), None)
    if best is not None:
        import gearshift as gs

        gs.save(variants[best].pipe, out / "model")
        console.print(f"Kept: {best} ({variants[best].recipe})")
        console.print(f'Load it with: gearshift.load("{out / "model"}")', soft_wrap=True, highlight=False)


def _variants(recipes: dict[str, str], console: Any) -> list[Variant]:
    """A warmed-up pipeline for the original and each recipe, with its size on disk and peak memory."""
    import gearshift as gs
    from gearshift import zoo
    from gearshift.evaluate.memory import peak_bytes
    from gearshift.zoo.data import prompt_set

    others = [p.text for p in prompt_set("search", BATCH)]
    call = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
    found = []
    for name, recipe in {ORIGINAL: "", **recipes}.items():
        with console.status(f"preparing: {name}"):
            pipe = gs.optimize(zoo.load("text-to-image"), recipe)
            pipe(others, **call)  # warms up, and is what planners record
            with tempfile.TemporaryDirectory() as folder:
                gs.save(pipe, Path(folder) / "x")
                disk = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
            peak = size_bytes(pipe) + peak_bytes(lambda: pipe(others, **call))  # noqa: B023
            found.append(Variant(name, recipe, pipe, disk, peak))
    return found


def _columns() -> list[Any]:
    from gearshift.evaluate.cells import Column

    return [
        Column("seconds", "time", "s/image", ".3f", "lower"),
        Column("speedup", "speed-up", "x", ".2f", "higher", worse="slower than the original", bar=True),
        Column("psnr", "PSNR", "dB", ".1f", "higher"),
        Column("ssim", "SSIM", "", ".3f", "higher"),
        Column("garment", "garment", "% right", ".1f", "higher"),
        Column("color", "color", "% right", ".1f", "higher"),
        Column("disk", "disk", "MB", ".1f", "lower"),
        Column("memory", "memory", "MB", ".1f", "lower"),
    ]


def _rows(variants: dict[str, Variant], outcomes: dict[str, Any], wanted: list[Any]) -> list[Any]:
    """The table: closeness to the original's images, the judge's word, and which one is best.

    Best is the fastest of those that stay within 33 dB and 2 points of the judge's accuracies.
    """
    import torch

    from gearshift.evaluate.cells import Row
    from gearshift.evaluate.compare import figures
    from gearshift.zoo.judge import Judge

    judge = Judge.load()
    garments, colors = torch.tensor([p.garment for p in wanted]), torch.tensor([p.color for p in wanted])
    cells: dict[str, dict[str, Any]] = {}
    for name, outcome in outcomes.items():
        garment, color = judge.accuracy(outcome.images * 2 - 1, garments, colors)
        cells[name] = {
            **figures(outcome, outcomes[ORIGINAL]),
            "garment": 100 * garment,
            "color": 100 * color,
            "disk": variants[name].disk / 1e6,
            "memory": variants[name].memory / 1e6,
        }
    good = [n for n, c in cells.items() if n != ORIGINAL and _stays_good(c, cells[ORIGINAL])]
    best = max(good, key=lambda n: cells[n]["speedup"], default=None)
    return [Row(n, variants[n].recipe, c, best=n == best, original=n == ORIGINAL) for n, c in cells.items()]


def _stays_good(cells: dict[str, Any], original: dict[str, Any]) -> bool:
    near = all(cells[k] >= original[k] - 100 * ACCURACY_SLACK for k in ("garment", "color"))
    return near and cells["psnr"] >= LEAST_PSNR


def _write_report(
    path: Path, variants: dict[str, Variant], outcomes: dict[str, Any], rows: list[Any], texts: list[str]
) -> Path:
    import gearshift as gs
    from gearshift.evaluate.report import Gallery, Report, Timeline, write_report
    from gearshift.evaluate.timing import machine_description

    shown = list(range(0, len(texts), max(1, len(texts) // 8)))[:8]
    pixels = {n: (o.images[shown].permute(0, 2, 3, 1) * 255).round().byte().numpy() for n, o in outcomes.items()}
    logs = {n: list(gs.status(v.pipe).last_run.values()) for n, v in variants.items()}
    return write_report(
        path,
        Report(
            title="gearshift on the text-to-image model that ships with it",
            intro=f"{len(texts)} images, {STEPS} DDIM steps, guidance {GUIDANCE}, in batches of {BATCH}. All recipes "
            "took turns, batch by batch; every image has the same prompt and seed in all of them.",
            machine=machine_description(),
            columns=_columns(),
            rows=rows,
            gallery=Gallery([texts[i] for i in shown], {n: list(p) for n, p in pixels.items()}),
            timelines=[Timeline(n, found) for n, found in logs.items() if found],
            notes=[
                "Time is wall clock of the whole call (text encoder, denoising, decoder), median over the batches.",
                "PSNR and SSIM compare each image with the original's of the same prompt and seed.",
                "Garment and color are right as judged by a small classifier trained on the real images.",
                "Memory at its peak: weights, and the most that torch had allocated besides during a call.",
                "Planned schedules were found from one recorded call with other prompts and seeds.",
                f"Best is the fastest with {LEAST_PSNR:.0f} dB or more and accuracies within "
                f"{100 * ACCURACY_SLACK:.0f} points of the original's.",
            ],
        ),
    )
