"""Run pipelines of diffusers, each made tiny with drawn weights, through the sweep, and write docs/pipelines.md.

Each cell is a run: a recipe is applied, the pipeline is called, called again with the recipe disabled (equal bits to
the original), saved, loaded and called (equal bits to before), restored and called (equal bits to the original). Takes
about twenty minutes; what was found is kept in build/pipelines.json, from which an interrupted run goes on.

usage: python tools/pipelines.py [--only PIPELINE ...] [--anew]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import diffusers  # noqa: E402
import torch  # noqa: E402
from support import tiny  # noqa: E402
from support.sweeping import RECIPES, swept  # noqa: E402

from gearshift.core.files import write_atomically  # noqa: E402
from gearshift.models.diffusers import denoisers, row_for  # noqa: E402

KEPT, PAGE = ROOT / "build" / "pipelines.json", ROOT / "docs" / "pipelines.md"


def tried(name: str) -> dict[str, Any]:
    """A row of the table: classes, whether the denoiser has a row, and what each recipe did."""
    pipe = tiny.build(name).pipe
    found = {type(module).__name__: row_for(module) is not None for module in denoisers(pipe).values()}
    cells = {kind: swept(name, recipe) for kind, recipe in RECIPES.items()}
    return {"pipeline": type(pipe).__name__, "denoisers": found, "cells": cells}


def page(found: dict[str, dict[str, Any]]) -> str:
    """The table as Markdown."""
    classes = {row["pipeline"] for row in found.values()}
    lines = [
        "<!-- made by tools/pipelines.py; do not edit -->\n",
        "# Which pipelines were run\n",
        f"{len(classes)} pipeline classes of diffusers {diffusers.__version__} in {len(found)} tiny pipelines with "
        "drawn weights. Each cell is a run of 6 steps: the recipe was applied, with an effect; disabled, the output "
        "had the original's bits; saved and loaded, it had those of before; restored, the original's again. The cell "
        "says how many of the run's passes through the blocks were computed.\n",
        "The recipes: " + "; ".join(f"*{kind}* `{next(iter(recipe))}`" for kind, recipe in RECIPES.items()) + ".\n",
        "A denoiser without a row is known by its structure alone (`models/probe.py`).\n",
        f"| pipeline | denoiser | {' | '.join(RECIPES)} |\n|---|---|{'---|' * len(RECIPES)}",
    ]
    for row in sorted(found.values(), key=lambda row: row["pipeline"]):
        parts = ", ".join(name if known else f"{name} (no row)" for name, known in row["denoisers"].items())
        lines.append(f"| {row['pipeline']} | {parts} | {' | '.join(map(_cell, row['cells'].values()))} |")
    return "\n".join(lines) + "\n"


def _cell(outcome: str) -> str:
    return outcome.removeprefix("works: ").removesuffix(" passes computed").replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--anew", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity(50)
    KEPT.parent.mkdir(exist_ok=True)
    found = json.loads(KEPT.read_text()) if KEPT.is_file() and not options.anew else {}
    for name in options.only or (*tiny.BUILDERS, *tiny.MORE):
        if name not in found or options.only:
            found[name] = tried(name)
            print(name, found[name]["cells"], flush=True)
            KEPT.write_text(json.dumps(found))
    write_atomically(PAGE, page(found))


if __name__ == "__main__":
    main()
