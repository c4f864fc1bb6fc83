"""Caching beside its controls and its peers: schedules that are found, periodic ones, other packages', fewer steps.

Reference: 50 steps (and, in sections of their own, 28) of the model's own sampler, same seeds. Plans, thresholds and
peers' settings are found on other prompts and seeds than those reported. All of one section take turns batch by batch.

usage: python benchmarks/caching.py [--images 24] [--models flux dit] [--quick]

Prints tables; a whole run writes benchmarks/caching.md and .json. Needs `pip install -e '.[demo,peers]'`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

import gearshift as gs
from gearshift import zoo
from gearshift.api import algorithms
from gearshift.core.errors import BadRecipe
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.evaluating import metrics_for
from gearshift.evaluate.evaluation import Evaluation
from gearshift.evaluate.side_by_side import cells_of
from gearshift.evaluate.subjects import Subject
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine_description
from gearshift.evaluate.turns import evaluated
from gearshift.steps.decision import Action
from gearshift.zoo.data import COLORS, Prompt, prompt_set
from gearshift.zoo.judge import color, garment

BATCH, EQUAL = 8, 0.05
SECTIONS = {50: (26, 17, 12, 9), 28: (14, 9, 7)}
QUICK = {50: (17, 9), 28: (9,)}
GUIDANCE = {"text-to-image": 5.0, "dit": 4.0, "flux": 3.5}
# FluxPipeline hands its shift to both samplers, which then step at Euler's own times.
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
THRESHOLDS = (0.002, 0.003, 0.005, 0.007, 0.01, 0.014, 0.02, 0.04, 0.1)
METRICS = ("psnr", "ssim", "seconds_per_image", "speedup")
PLANNED = "planned (taylor_auto)"
COLUMNS = [
    Column("computed", "computed steps", format=".0f"),
    Column("seconds_per_image", "time", "s/image", ".3f", "lower"),
    Column("speedup", "speed-up", "x", ".2f", "higher", worse="slower"),
    Column("psnr", "PSNR", "dB", ".1f", "higher"),
    Column("worst_psnr", "worst image", "dB", ".1f", "higher"),
    Column("ssim", "SSIM", "", ".3f", "higher"),
    Column("garment", "garment", "% right", ".0f", "higher"),
    Column("color", "color", "% right", ".0f", "higher"),
]


@dataclass(frozen=True)
class Way:
    """A pipeline and the steps to call it with; of a peer's nobody knows which it computes."""

    pipe: Any
    steps: int
    peer: bool = False


def arguments(model: str, prompts: list[Prompt]) -> dict[str, Any]:
    """What the pipeline is called with for these prompts."""
    seeded = [torch.Generator().manual_seed(p.seed) for p in prompts]
    call = {
        "generator": seeded,
        "guidance_scale": GUIDANCE[model],
        "output_type": "np",
        **zoo.required_arguments(model),
    }
    if model == "dit":
        return {**call, "class_labels": [p.garment * len(COLORS) + p.color for p in prompts]}
    return {**call, "prompt": [p.text for p in prompts]}


def images_of(model: str, pipe: Any, prompts: list[Prompt], steps: int) -> torch.Tensor:
    """Images [n, 3, h, w] in [0, 1]."""
    images = pipe(num_inference_steps=steps, **arguments(model, prompts)).images
    return torch.as_tensor(images).permute(0, 3, 1, 2).float().nan_to_num(0.0).clamp(0, 1)


def computed(way: Way) -> int | None:
    """Steps that the newest run computed; None where that has no one answer."""
    logs = list(gs.status(way.pipe).last_run.values())
    if len(logs) > 1 or way.peer:
        return None
    return len(logs[0].steps(Action.COMPUTE)) if logs else way.steps


def optimized(model: str, recipe: Any, **settings: Any) -> Any:
    return gs.optimize(zoo.load(model), recipe, **settings)


def sampler(model: str, scheduler: Any) -> Any:
    pipe = zoo.load(model)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **(FLOW if model == "flux" else {}))
    return pipe


def planned(model: str, steps: int, count: int, whole: bool) -> dict[str, Way]:
    """Schedules found on one call of the search prompts."""
    example = {**arguments(model, prompt_set("search", BATCH)), "num_inference_steps": steps}
    del example["generator"]
    factor = min(count / steps + 0.01, 1.0)
    recipes: dict[str, Any] = {PLANNED: {"taylor_auto": {"speed_factor": factor}}}
    if whole:
        recipes["planned (auto, taylor)"] = {"auto": {"speed_factor": factor, "cache_mode": "taylor"}}
    return {name: Way(optimized(model, recipe, data=[example]), steps) for name, recipe in recipes.items()}


def periodic(model: str, steps: int, count: int, whole: bool) -> dict[str, Way]:
    """Every few steps; where an algorithm is not for this model or has no interval as long, it is left out."""
    interval = max(round((steps - 2) / (count - 2)), 2)
    every, short = {"cache_interval": min(interval, 7), "start_step": 2}, {"interval": interval}
    recipes: dict[str, Any] = {"every few, repeated (periodic)": {"periodic": every}}
    if whole:
        recipes = {
            "every few, line (taylor)": {"taylor": {"order": 1, **every}},
            "every few, parabola (taylor)": {"taylor": {"order": 2, **every}},
            **recipes,
            "every few, blocks (fora)": {"fora": {**short, "start_step": 2}},
            "every few, stacks (flux_caching)": {"flux_caching": every},
            "every few, deep features (deepcache)": {"deepcache": {"interval": round(steps / count)}},
        }
    return {name: Way(pipe, steps) for name, recipe in recipes.items() if (pipe := fitting(model, recipe))}


def fitting(model: str, recipe: Any) -> Any:
    """The optimized pipeline, or None where the recipe is not for this model, is out of range or only announced."""
    try:
        return optimized(model, recipe)
    except BadRecipe:
        return None


def fewer(model: str, count: int) -> dict[str, Way]:
    """The same time spent on fewer whole steps."""
    return {
        f"fewer {'Euler' if model == 'flux' else 'DDIM'} steps": Way(zoo.load(model), count),
        "fewer DPM++ 2M steps": Way(sampler(model, DPMSolverMultistepScheduler), count),
        "fewer UniPC steps": Way(sampler(model, UniPCMultistepScheduler), count),
    }


def adaptive(model: str, steps: int, counts: tuple[int, ...]) -> dict[str, Way]:
    """For each count the threshold that comes nearest to it on the search prompts."""
    ways = {}
    for threshold in THRESHOLDS:
        setting = {"threshold": threshold, "max_skip_steps": 5, "cache_mode": "taylor"}
        way = Way(optimized(model, {"adaptive": setting}), steps)
        images_of(model, way.pipe, prompt_set("search", BATCH), steps)
        ways[threshold] = way, computed(way) or steps
    found = {}
    for count in counts:
        best = min(ways, key=lambda t: abs(ways[t][1] - count))
        found[f"{count}: while it hardly moves, line (adaptive, threshold {best})"] = ways[best][0]
    return found


def attention(model: str, steps: int) -> dict[str, Way]:
    """Caches of attention alone, which save less than whole steps: at intervals of their own."""
    found = {}
    for name in sorted({"pab", "fastercache"} & set(algorithms())):
        for interval in (2, 4):
            if pipe := fitting(model, {name: {"interval": interval}}):
                found[f"attention every {interval} ({name})"] = Way(pipe, steps)
    return found


def ways_of(model: str, steps: int, counts: tuple[int, ...]) -> tuple[dict[str, Way], dict[str, str]]:
    """All that is compared in one section, by row name; and the peers that failed, with why."""
    whole, found = steps == max(SECTIONS), {"original": Way(zoo.load(model), steps)}
    for count in counts:
        made = planned(model, steps, count, whole) | periodic(model, steps, count, whole) | fewer(model, count)
        found |= {f"{count}: {name}": way for name, way in made.items()}
    if not whole:
        return found, {}
    found |= adaptive(model, steps, counts) | attention(model, steps)
    prompts = prompt_set("search", BATCH)
    bench = peers.Bench(lambda: zoo.load(model), lambda pipe: images_of(model, pipe, prompts, steps), steps)
    wanted = {count: peers.timed(bench, found[f"{count}: {PLANNED}"].pipe)[0] for count in counts}
    theirs, failures = peers.chosen(bench, wanted)
    found |= {name: Way(pipe, steps, peer=True) for name, pipe in theirs.items()}
    return found, failures


def measured(model: str, ways: dict[str, Way], prompts: list[Prompt]) -> dict[str, Evaluation]:
    """All ways side by side, batch after batch."""
    batches = [prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH)]
    calls = [{**arguments(model, batch), "seed": batch[0].seed} for batch in batches]
    given = [{k: v for k, v in call.items() if k != "generator"} for call in calls]
    subjects = {name: Subject(way.pipe, given={"num_inference_steps": way.steps}) for name, way in ways.items()}
    examples, metrics = metrics_for(ways["original"].pipe, given, [*METRICS, garment, color])
    return evaluated(subjects, examples, metrics, "original")


def rows(model: str, steps: int, counts: tuple[int, ...], images: int) -> list[Row]:
    """Measure one section."""
    ways, failures = ways_of(model, steps, counts)
    with peers.hushed():
        found = measured(model, ways, prompt_set("report", images))
    table = [
        Row(name, "", {"computed": computed(ways[name]), **shown(e)}, original=name == "original")
        for name, e in found.items()
    ]
    order = {str(count): place for place, count in enumerate(counts)}
    table.sort(key=lambda row: -1 if row.original else order.get(row.name.split(":")[0], len(order)))
    return table + [Row(f"{name}: not measured, {why}") for name, why in failures.items()]


def shown(evaluation: Evaluation) -> dict[str, Any]:
    """The cells of a row."""
    return {k: v for k, v in cells_of(evaluation).items() if k in {c.key for c in COLUMNS}}


def verdict(model: str, steps: int, counts: tuple[int, ...], table: list[Row]) -> str:
    """Whether each planned schedule is the closest of all that take at most 5 % more time than it."""
    said = []
    for count in counts:
        plan = next(row for row in table if row.name == f"{count}: {PLANNED}")
        speed, close = float(plan.cells["speedup"]), float(plan.cells["psnr"])  # type: ignore[arg-type]
        rivals = [row for row in table if row is not plan and row.cells.get("psnr") is not None]
        ahead = [r for r in rivals if r.cells["speedup"] >= speed / (1 + EQUAL) and r.cells["psnr"] > close]  # type: ignore[operator]
        beaten = "; ".join(f"{r.name} by {r.cells['psnr'] - close:.1f} dB" for r in ahead)  # type: ignore[operator]
        said.append(f"- {model}, {steps} steps, {count}: " + (f"behind {beaten}." if ahead else "ahead of all."))
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--models", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--quick", action="store_true", help=f"{BATCH} images and fewer counts; nothing is written")
    options = parser.parse_args()
    images, sections = (BATCH, QUICK) if options.quick else (options.images, SECTIONS)
    warnings.simplefilter("ignore")
    about = f"{machine_description()}; {images} images, batches of {BATCH}, guidance {GUIDANCE}."
    reference = "Reference: all steps of the model's own sampler (DDIM; flux: Euler), same seeds."
    pages, data, said = {}, {}, {}
    for model in options.models:
        for steps, counts in sections.items():
            table = rows(model, steps, counts, images)
            title = f"{model}, {steps} steps"
            pages[title] = to_markdown(COLUMNS, table)
            data[title] = json.loads(to_json(COLUMNS, table))
            said[title] = verdict(model, steps, counts, table)
            print(f"## {title}\n\n{pages[title]}\n{said[title]}", flush=True)
    if not options.quick:
        write(f"{about} {reference}", pages, data, said)


def write(about: str, pages: dict[str, str], data: dict[str, object], said: dict[str, str]) -> None:
    """The page and the data beside it; sections of models that were not run stay as they are."""
    page, numbers = (Path(__file__).with_suffix(ending) for ending in (".md", ".json"))
    titles = [f"{model}, {steps} steps" for model in GUIDANCE for steps in SECTIONS]
    old = dict(part.split("\n\n", 1) for part in page.read_text().split("\n## ")[1:]) if page.exists() else {}
    kept = json.loads(numbers.read_text()) if numbers.exists() else {}
    tables = {t: pages.get(t) or old[t].strip() + "\n" for t in titles if t in pages or t in old}
    verdicts = {**{t: v for t, v in kept.get("verdict", {}).items() if t in titles}, **said}
    summary = f"PSNR of {PLANNED} beside every row that takes at most {EQUAL:.0%} more time, whatever its count:\n\n"
    lines = ["# Caching beside its controls and its peers\n", f"{about}\n", peers.NOTE]
    lines += [f"## {title}\n\n{table}" for title, table in tables.items()]
    lines.append(f"## At equal time\n\n{summary}" + "\n".join(verdicts[t] for t in titles if t in verdicts) + "\n")
    write_atomically(page, "\n".join(lines))
    everything = {"about": about, "verdict": verdicts, **{t: data.get(t) or kept[t] for t in tables}}
    write_atomically(numbers, json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
