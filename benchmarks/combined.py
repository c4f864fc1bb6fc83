"""Planned caching and compiling together: how fast the whole call becomes, and how near its images stay.

Reference: 50 steps of the model's own sampler, same seeds, images in batches of 8, all recipes taking turns. Schedules
are found on other prompts than those reported.

usage: python benchmarks/combined.py [--images 48] [--models text-to-image dit flux] [--speeds 4 5]

Prints tables and writes them to benchmarks/combined.md and .json. Needs
`pip install -e '.[demo,openvino,onnxrt]'` for all rows.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import caching

import gearshift as gs
from gearshift import zoo
from gearshift.core.errors import BadRecipe
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine_description

FILE = Path(__file__).with_suffix("")
STEPS = 50
COMPILERS: tuple[dict[str, Any], ...] = (
    {},
    {"stable_fast": {}},
    {"torch_compile": {}},
    {"torch_compile": {"backend": "openvino"}},
    {"torch_compile": {"backend": "onnxrt"}},
)
COLUMNS = [c for c in caching.COLUMNS if c.key != "computed"] + [Column("megabytes", "weights", "MB", ".1f", "lower")]


def pipelines(model: str, speeds: list[float]) -> dict[str, Any]:
    """The original, each compiler, and each plan with none and each of them."""
    example = {**caching.arguments(model, caching.prompt_set("search", caching.BATCH)), "num_inference_steps": STEPS}
    del example["generator"]
    plans = {None: None, **{s: gs.plan(zoo.load(model), speed=s, data=[example]) for s in speeds}}
    found = {"original": zoo.load(model)}
    for speed, plan in plans.items():
        for compiler in COMPILERS if plan else COMPILERS[1:]:
            pipe = zoo.load(model) if plan is None else plan.apply(zoo.load(model))
            words = ([f"planned for {speed:g}x"] if plan else []) + ([str(gs.Recipe.of(compiler))] if compiler else [])
            try:
                found[", ".join(words)] = gs.optimize(pipe, compiler) if compiler else pipe
            except BadRecipe as error:
                print(f"{compiler}: not measured, {' '.join(str(error).split())}", flush=True)
    return found


def rows(model: str, images: int, speeds: list[float]) -> list[Row]:
    pipes = pipelines(model, speeds)
    ways = {name: caching.Way(pipe, STEPS) for name, pipe in pipes.items()}
    found = caching.measured(model, ways, caching.prompt_set("report", images))
    sizes = {name: gs.status(pipe).size / 1e6 for name, pipe in pipes.items()}
    return [
        Row(name, "", {**caching.shown(e), "megabytes": sizes[name]}, original=name == "original")
        for name, e in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--models", nargs="+", choices=caching.GUIDANCE, default=list(caching.GUIDANCE))
    parser.add_argument("--speeds", nargs="+", type=float, default=[4.0, 5.0])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = FILE.with_suffix(".json")
    data = json.loads(path.read_text()) if path.exists() else {}
    about = f"{machine_description()}; {options.images} images of {STEPS} steps in batches of {caching.BATCH}."
    for model in options.models:
        table = rows(model, options.images, options.speeds)
        text = to_markdown(COLUMNS, table)
        print(f"## {model}\n\n{text}", flush=True)
        data[model] = {"about": about, "rows": json.loads(to_json(COLUMNS, table)), "text": text}
        write_atomically(path, json.dumps(data, indent=1) + "\n")
    pages = ["# Caching and compiling together\n", *(f"## {n}\n\n{d['about']}\n\n{d['text']}" for n, d in data.items())]
    write_atomically(FILE.with_suffix(".md"), "\n".join(pages))


if __name__ == "__main__":
    main()
