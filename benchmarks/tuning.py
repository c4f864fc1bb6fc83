"""What `gs.tune` finds: the best recipe at a quality that is asked for, beside the best single algorithm of its search.

Prompts are split by `gs.tune` itself: what is shown was measured on those that it did not choose by.

usage: python benchmarks/tuning.py [--models text-to-image llama] [--budget 10m] [--only NAME ...] [--threads 2]

Prints a table and writes benchmarks/tuning.md and .json. Needs `pip install -e '.[demo,tune,openvino]'`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch

import gearshift as gs
from gearshift import zoo
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine_description
from gearshift.tune.candidate import Tried
from gearshift.tune.tuning import Tuning
from gearshift.zoo.data import prompt_set
from gearshift.zoo.language import load_language, validation_text

FILE = Path(__file__).with_suffix("")
COUNT = {"text-to-image": 12, "llama": 18, "smollm2": 9}  # prompts or texts; a third is held out
KEEP = {
    "text-to-image": ["psnr>=40", "worst:psnr>=30"],
    "llama": ["perplexity<=101%"],
    "smollm2": ["perplexity<=101%"],
}
COLUMNS = [
    Column("held", "speed-up, held out", "x", ".2f", "higher", worse="slower"),
    Column("interval", "95 % interval"),
    Column("gain", "speed-up, chosen by", "x", ".2f", "higher"),
    Column("quality", "quality, held out"),
    Column("count", "candidates", "", ".0f"),
]


def tuned(model: str, options: argparse.Namespace) -> Tuning:
    given: dict[str, Any] = {"keep": KEEP[model], "budget": options.budget, "only": options.only}
    if model == "text-to-image":
        prompts = prompt_set("report", COUNT[model])
        calls = [{"prompt": p.text, "seed": p.seed, "num_inference_steps": 50, "guidance_scale": 5.0} for p in prompts]
        return gs.tune(zoo.load(model), data=calls, **given)
    plain, tokenizer = load_language(model)
    lines = [line for line in validation_text().splitlines() if len(line) > 150]
    texts = lines[:: max(1, len(lines) // COUNT[model])][: COUNT[model]]
    return gs.tune(plain, data=texts, tokenizer=tokenizer, **given)


def row(name: str, one: Tried | None, count: int, best: bool) -> Row:
    """One recipe; an empty row says that nothing kept what was asked and was better than the original."""
    if one is None:
        return Row(f"{name}: nothing better than the original", "", {"count": count})
    low, high = one.interval or (one.held_gain, one.held_gain)
    kept = {f"{c.of} {c.metric}": one.value(c.metric, c.of, held_out=True) for c in one.goal.keep}
    quality = ", ".join(f"{k} {v:.4g}" for k, v in kept.items() if v is not None)
    cells = {"held": one.held_gain, "gain": one.gain, "interval": f"{low:.2f} to {high:.2f}", "quality": quality}
    return Row(name, one.recipe, {**cells, "count": count}, best=best)


def rows(found: Tuning) -> list[Row]:
    """The best recipe, and the best of those with one algorithm."""
    good = [c for c in found.candidates if not c.why and c.held_gain > 1]
    singles = [c for c in good if len(gs.Recipe.of(c.recipe)) == 1]
    alone = max(singles, key=lambda c: c.gain, default=None)
    count = len(found.candidates)
    return [row("tuned", found.best, count, True), row("best single algorithm", alone, len(singles), False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=KEEP, default=["text-to-image", "llama"])
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="algorithms or families to try")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    path = FILE.with_suffix(".json")
    data = json.loads(path.read_text()) if path.exists() else {}
    for model in options.models:
        found = tuned(model, options)
        table = rows(found)
        tried = f", of {', '.join(options.only)}" if options.only else ""
        about = f"{machine_description()}; keeping {', '.join(KEEP[model])}; budget {options.budget}{tried}."
        about += f" Chosen by {found.chosen_by} items, shown on {found.held_out} others; {found.seconds:.0f} s."
        text = to_markdown(COLUMNS, table)
        print(f"## {model}\n\n{about}\n\n{text}", flush=True)
        data[model] = {"about": about, "rows": json.loads(to_json(COLUMNS, table)), "text": text}
        write_atomically(path, json.dumps(data, indent=1) + "\n")
    pages = ["# Tuning\n", *(f"## {name}\n\n{d['about']}\n\n{d['text']}" for name, d in data.items())]
    write_atomically(FILE.with_suffix(".md"), "\n".join(pages))


if __name__ == "__main__":
    main()
