"""gearshift demo: the main job, on the model that ships."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from gearshift.core.boundary import path_of, refuse_unwritable
from gearshift.core.errors import GearshiftError
from gearshift.core.extras import need
from gearshift.persist.store import refuse_foreign

STEPS, GUIDANCE, BATCH = 50, 5.0, 8
WIDTH = 100
ORIGINAL = "original"
LEAST_PSNR, LEAST_WORST, ACCURACY_SLACK = 33.0, 25.0, 0.02
METRICS = ("psnr", "ssim", "seconds_per_image", "speedup", "disk", "peak_memory")
SHOWN = ("seconds_per_image", "speedup", "psnr", "worst_psnr", "ssim", "garment", "color", "disk", "peak_memory")
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


def run(arguments: argparse.Namespace) -> None:
    """Measure the recipes against the original, print the table, write the report, keep the best."""
    need("diffusers", "demo", "gearshift demo")
    from gearshift.zoo.quiet import quiet_libraries

    with quiet_libraries():
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from gearshift.evaluate.evaluating import metrics_for
    from gearshift.evaluate.side_by_side import columns_of, rows_of
    from gearshift.evaluate.subjects import Subject
    from gearshift.evaluate.table import render
    from gearshift.evaluate.turns import evaluated
    from gearshift.zoo.data import prompts
    from gearshift.zoo.judge import color, garment

    if arguments.images < 1:
        raise GearshiftError(f"--images must be 1 or more. Got {arguments.images} instead.")
    out = path_of(arguments.out, "--out")
    refuse_unwritable(out / "report.html")
    refuse_foreign(out / "model")
    console = Console()
    console = console if console.width >= WIDTH else Console(width=WIDTH)
    texts = [p.text for p in (prompts() * -(-arguments.images // 80))[: arguments.images]]
    pipes = _pipelines({**RECIPES, **(COMPILED if arguments.compile else {})}, console)
    subjects = {name: Subject(pipe) for name, pipe in pipes.items()}
    found, metrics = metrics_for(pipes[ORIGINAL], _calls(texts), [*METRICS, garment, color], BATCH)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=(1 + len(found)) * len(pipes))
        measured = evaluated(subjects, found, metrics, ORIGINAL, lambda: progress.advance(task))
    best = _best(measured)
    shown = list(measured.values())
    columns = [c for c in columns_of(shown) if c.key in SHOWN]
    console.print(render(columns, [replace(row, recipe="") for row in rows_of(shown, columns, ORIGINAL, best)]))
    for name, evaluation in measured.items():
        if evaluation.recipe:
            console.print(f"{name}: {evaluation.recipe}", soft_wrap=True, highlight=False)
    console.print(f"Report: {_write_report(out / 'report.html', shown, best, len(texts))}")
    if best is not None:
        import gearshift as gs

        gs.save(pipes[best], out / "model")
        console.print(f"Kept: {best} ({measured[best].recipe})")
        console.print(f'Load it with: gearshift.load("{out / "model"}")', soft_wrap=True, highlight=False)


def _calls(texts: list[str]) -> list[dict[str, Any]]:
    return [{"prompt": text, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE} for text in texts]


def _pipelines(recipes: dict[str, str], console: Any) -> dict[str, Any]:
    """The original and a pipeline for each recipe, called once with other prompts, which is what planners record."""
    import gearshift as gs
    from gearshift import zoo
    from gearshift.zoo.data import prompt_set

    others = [p.text for p in prompt_set("search", BATCH)]
    found = {}
    for name, recipe in {ORIGINAL: "", **recipes}.items():
        with console.status(f"preparing: {name}"):
            found[name] = gs.optimize(zoo.load("text-to-image"), recipe)
            found[name](others, **{k: v for k, v in _calls([""])[0].items() if k != "prompt"})
    return found


def _best(measured: dict[str, Any]) -> str | None:
    """The fastest of those that keep every image near the original's and the judge's accuracies; None if none does."""
    original = measured[ORIGINAL]
    good = [n for n, e in measured.items() if n != ORIGINAL and _stays_good(e, original)]
    return max(good, key=lambda n: measured[n]["speedup"], default=None)


def _stays_good(measured: Any, original: Any) -> bool:
    near = all(measured[k] >= original[k] - 100 * ACCURACY_SLACK for k in ("garment", "color"))
    return bool(near and measured["psnr"] >= LEAST_PSNR and measured.worst("psnr")[1] >= LEAST_WORST)


def _write_report(path: Path, shown: list[Any], best: str | None, images: int) -> Path:
    from gearshift.evaluate.side_by_side import write_page

    return write_page(
        path,
        shown,
        "gearshift on the text-to-image model that ships with it",
        f"{images} images, {STEPS} DDIM steps, guidance {GUIDANCE}, in batches of {BATCH}. All recipes took turns, "
        "batch by batch; every image has the same prompt and seed in all of them.",
        [
            "Time is wall clock of the whole call (text encoder, denoising, decoder), median over the batches.",
            "PSNR and SSIM compare each image with the original's of the same prompt and seed.",
            "Garment and color are right as judged by a small classifier trained on the real images.",
            "Memory at its peak: weights, and the most that torch had allocated besides during a call.",
            "Planned schedules were found from one recorded call with other prompts and seeds.",
            f"Best is the fastest with {LEAST_PSNR:.0f} dB or more on average, {LEAST_WORST:.0f} dB or more for every "
            f"image, and accuracies within {100 * ACCURACY_SLACK:.0f} points of the original's.",
        ],
        ORIGINAL,
        best,
    )
