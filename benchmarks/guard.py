"""Plans with and without their guard: the worst of many prompts, the share under a floor, and the time.

Plans are found on eight search prompts; the report prompts, each with a seed of its own, were met by none. Guarded and
unguarded calls take turns, batch by batch. PSNR compares each image with that of the fully computed call.

usage: python benchmarks/guard.py [--prompts 500] [--speeds 3 5] [--cache FOLDER]

What was measured lies in the cache folder, from which a stopped run goes on. A whole run writes benchmarks/guard.md and
.json.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch

import gearshift as gs
from gearshift import zoo
from gearshift.core.files import write_atomically
from gearshift.core.folders import cache_folder
from gearshift.evaluate.metrics import psnr_each
from gearshift.evaluate.timing import machine_description
from gearshift.planner.plan import Plan
from gearshift.steps.decision import GUARDED
from gearshift.zoo.data import Prompt, prompt_set
from gearshift.zoo.quiet import quiet_libraries

STEPS, GUIDANCE, BATCH = 50, 5.0, 4
FLOOR, CLIFF = 25.0, 15.0
WAYS = ("unguarded", "guarded")
HEADS = "plan", "", "computed", "mean, dB", "worst, dB", "its prompt", "under 25 dB", "15 dB below mean", "extra steps"


def call(prompts: list[Prompt]) -> dict[str, Any]:
    return {
        "prompt": [p.text for p in prompts],
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "output_type": "latent",
    }


def latents(pipe: Any, prompts: list[Prompt]) -> torch.Tensor:
    return pipe(generator=[torch.Generator().manual_seed(p.seed) for p in prompts], **call(prompts)).images


def psnr(pipe: Any, made: torch.Tensor, exact: torch.Tensor) -> list[float]:
    """PSNR of each image in dB."""
    with torch.no_grad():
        images = [pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.clamp(-1, 1) for x in (made, exact)]
    return psnr_each(*images, peak=2.0).tolist()


def batches(prompts: list[Prompt]) -> list[list[Prompt]]:
    return [prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH)]


def references(pipe: Any, prompts: list[Prompt], place: Path) -> torch.Tensor:
    """Final latents of fully computed calls, as far as they are not in the file yet."""
    made = torch.load(place) if place.exists() else torch.empty(0)
    for batch in batches(prompts[len(made) :]):
        made = torch.cat([made, latents(pipe, batch)])
        torch.save(made, place)
    return made[: len(prompts)]


def plan_for(speed: float, place: Path) -> Plan:
    if not place.exists():
        gs.plan(zoo.load("text-to-image"), speed=speed, data=[call(prompt_set("search", 8))]).save(place)
    return Plan.load(place)


def measured(plan: Plan, prompts: list[Prompt], exact: torch.Tensor, place: Path) -> list[dict[str, Any]]:
    """For each batch and way the PSNR of its images, its seconds and extra steps; goes on where the file ends."""
    rows = json.loads(place.read_text()) if place.exists() else []
    pipes = {way: plan.apply(zoo.load("text-to-image"), guard=way == WAYS[1]) for way in WAYS}
    for pipe in pipes.values():
        latents(pipe, prompts[:BATCH])
    for n, batch in list(enumerate(batches(prompts)))[len(rows) // len(WAYS) :]:
        for way in WAYS[:: 1 if n % 2 else -1]:
            start = time.process_time()
            made = latents(pipes[way], batch)
            seconds = time.process_time() - start
            log = next(iter(gs.status(pipes[way]).last_run.values()))
            near = psnr(pipes[way], made, exact[n * BATCH : (n + 1) * BATCH])
            extra = sum(d.reason == GUARDED and d.branch == 0 for d in log)
            rows.append({"way": way, "batch": n, "psnr": near, "seconds": seconds, "extra": extra})
        write_atomically(place, json.dumps(rows))
    return rows


def table(plan: Plan, prompts: list[Prompt], rows: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Two lines of the table, and a sentence about the time."""
    lines = []
    for way in WAYS:
        mine = [row for row in sorted(rows, key=lambda row: row["batch"]) if row["way"] == way]
        near = torch.tensor([value for row in mine for value in row["psnr"]])
        worst, mean = int(near.argmin()), float(near.mean())
        prompt, extra = prompts[worst], sum(row["extra"] for row in mine) / len(mine)
        under, far = int((near < FLOOR).sum()), int((near < mean - CLIFF).sum())
        cells = [plan.asked, way, f"{len(plan.schedule.computed)} of {STEPS}", f"{mean:.1f}", f"{near.min():.1f}"]
        cells += [f"{prompt.text}, seed {prompt.seed}", f"{under} of {len(near)}", f"{far}", f"{extra:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    seconds = {way: {row["batch"]: row["seconds"] for row in rows if row["way"] == way} for way in WAYS}
    longer = {n: seconds[WAYS[1]][n] / seconds[WAYS[0]][n] - 1 for n in seconds[WAYS[0]]}
    touched = {row["batch"] for row in rows if row["extra"]}
    usual = [ratio for n, ratio in longer.items() if n not in touched]
    said = f"- {plan.asked}: {len(touched)} of {len(longer)} batches got extra steps; "
    if usual:
        said += f"the others took {median(usual):+.1%} of the time (median), "
    return lines, said + f"all together {sum(seconds[WAYS[1]].values()) / sum(seconds[WAYS[0]].values()) - 1:+.1%}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--speeds", type=float, nargs="+", default=[3.0, 5.0])
    parser.add_argument("--cache", type=Path, default=cache_folder() / "guard")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    prompts, lines, said, numbers = prompt_set("report", options.prompts), [], [], {}
    with quiet_libraries():
        exact = references(zoo.load("text-to-image"), prompts, options.cache / "reference.pt")
        for speed in options.speeds:
            plan = plan_for(speed, options.cache / f"plan-{speed:g}.json")
            rows = measured(plan, prompts, exact, options.cache / f"rows-{speed:g}.json")
            rows = [row for row in rows if row["batch"] < len(batches(prompts))]
            more, time_said = table(plan, prompts, rows)
            lines, said, numbers = lines + more, [*said, time_said], {**numbers, f"{speed:g}": rows}
            print("\n".join([*more, time_said]), flush=True)
    head = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    about = (
        f"{machine_description()}; {len(prompts)} prompts, batches of {BATCH}, guidance {GUIDANCE}, {STEPS} DDIM steps."
    )
    page = ["# Plans with and without their guard", "", about, "", __doc__.split("\n\n")[1].replace("\n", " "), ""]
    time_note = "Time is CPU time of one thread, each batch's guarded call beside its unguarded one:"
    write_atomically(Path(__file__).with_suffix(".md"), "\n".join([*page, *head, *lines, "", time_note, "", *said, ""]))
    write_atomically(Path(__file__).with_suffix(".json"), json.dumps({"about": about, **numbers}) + "\n")


if __name__ == "__main__":
    main()
