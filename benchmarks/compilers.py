"""Compiled and traced pipelines beside eager ones: speed, start-up, graphs, and whether caching multiplies with them.

Every way takes turns with the original in the same run. Starting is what optimizing and the first call took over a
later call, with the compiler's own caches empty. 'of the product' is the speed with a cacher over the speed of the
compiler alone times that of the cacher alone. A portable model is saved, loaded in a fresh process that has the
libraries imported, and checked for equal bits; starting from its folder is loading it and its first call.

usage: python benchmarks/compilers.py [--models text-to-image dit flux] [--images 1] [--steps 20] [--only NAME ...]

Prints tables; those of whole runs go to benchmarks/compilers.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import caching
import torch
from torch._inductor.utils import fresh_cache

import gearshift as gs
from gearshift import zoo
from gearshift.core.errors import GearshiftError
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.metrics import sqnr
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import call_seconds, interleaved, machine_description

FILE = Path(__file__).with_suffix("")
CACHERS: dict[str, tuple[dict[str, Any], ...]] = {
    "text-to-image": ({"taylor": {"cache_interval": 3}}, {"deepcache": {"interval": 2}}),
    "dit": ({"taylor": {"cache_interval": 3}}, {"fora": {"interval": 2}}),
    "flux": ({"taylor": {"cache_interval": 3}}, {"flux_caching": {"cache_interval": 2}}),
}
PORTABLE = {"torch_compile": {"make_portable": True}}
COMPILERS: tuple[dict[str, Any], ...] = (
    {"torch_compile": {}},
    {"torch_compile": {"target": "module_list"}},
    PORTABLE,
    {"torch_compile": {"backend": "openvino"}},
    {"torch_compile": {"backend": "onnxrt"}},
    {"stable_fast": {}},
    {"x_fast": {}},
)
WITH_CACHERS: tuple[dict[str, Any], ...] = (
    {"torch_compile": {}},
    {"torch_compile": {"backend": "openvino"}},
    {"stable_fast": {}},
)
COLUMNS = [
    Column("seconds", "time", "s/call", ".3f", "lower"),
    Column("speed", "speed over eager beside it", "x", ".2f", "higher", worse="slower"),
    Column("spread", "spread of the rounds", "%", ".0f"),
    Column("product", "of the product", "%", ".0f", "higher"),
    Column("start", "starting", "s", ".1f", "lower"),
    Column("again", "starting from its folder", "s", ".1f", "lower"),
    Column("graphs", "graphs", "", ".0f"),
    Column("sqnr", "SQNR to the same without a compiler", "dB", ".0f", "higher"),
]


class Subject:
    """One pipeline of the zoo and the call that is timed."""

    def __init__(self, name: str, images: int, steps: int) -> None:
        self.name, self.steps = name, steps
        self.prompts = caching.prompt_set("report", images)

    def call(self, pipe: Any) -> torch.Tensor:
        return caching.images_of(self.name, pipe, self.prompts, self.steps)

    def restarted(self, pipe: Any) -> tuple[float, torch.Tensor]:
        """Save it, and load and call it in a fresh process: seconds over those of a later call, and its images."""
        with tempfile.TemporaryDirectory() as folder:
            gs.save(pipe, Path(folder) / "m")
            given = ["--restart", folder, "--models", self.name]
            given += ["--images", str(len(self.prompts)), "--steps", str(self.steps)]
            subprocess.run([sys.executable, __file__, *given], check=True, capture_output=True)
            seconds = json.loads((Path(folder) / "seconds.json").read_text())
            return seconds, torch.load(Path(folder) / "images.pt", weights_only=True)


def restart(subject: Subject, folder: Path) -> None:
    """What the fresh process does, when an eager pipeline has made it import the libraries."""
    subject.call(zoo.load(subject.name))
    start = time.perf_counter()
    pipe = gs.load(folder / "m")
    images = subject.call(pipe)
    took = time.perf_counter() - start
    torch.save(images, folder / "images.pt")
    write_atomically((folder / "seconds.json"), json.dumps(took - call_seconds(lambda: subject.call(pipe))))


def row(subject: Subject, recipe: dict[str, Any], original: Any, rounds: int, known: dict[str, float]) -> Row:
    """One way beside the original; `known` has the speeds of what it consists of, and takes its own."""
    torch._dynamo.reset()
    name, compiler = str(gs.Recipe.of(recipe)), [k for k in recipe if k in _names()]
    uncompiled = gs.optimize(zoo.load(subject.name), {k: v for k, v in recipe.items() if k not in compiler})
    with fresh_cache():
        start = time.perf_counter()
        pipe = gs.optimize(zoo.load(subject.name), recipe)
        images = subject.call(pipe)
        first = time.perf_counter() - start
        times = interleaved({"eager": lambda: subject.call(original), "made": lambda: subject.call(pipe)}, rounds)
        cells: dict[str, Any] = {
            "seconds": times["made"].median,
            "speed": times["eager"].median / times["made"].median,
            "spread": 100 * max(t.spread for t in times.values()),
        }
        known[name] = cells["speed"]
        if compiler:
            cells |= {"start": first - times["made"].median, "sqnr": sqnr(subject.call(uncompiled), images)}
            cells["graphs"] = float(gs.status(pipe).applied[-1]["figures"].get("graphs", 0))
        if compiler and len(recipe) > 1:
            alone = [str(gs.Recipe.of({k: v})) for k, v in recipe.items()]
            cells["product"] = 100 * cells["speed"] / (known[alone[0]] * known[alone[1]])
        if recipe == PORTABLE:
            cells["again"], again = subject.restarted(pipe)
            assert torch.equal(again, subject.call(pipe)), "images from the saved folder are other ones"
    return Row(name, "", cells)


def _names() -> set[str]:
    return {name for recipe in COMPILERS for name in recipe}


def rows(subject: Subject, options: argparse.Namespace) -> list[Row]:
    original, known = zoo.load(subject.name), {}
    eager = interleaved({"": lambda: subject.call(original)}, options.rounds)[""]
    found = [Row("eager", "", {"seconds": eager.median, "speed": 1.0, "spread": 100 * eager.spread}, original=True)]
    cachers = CACHERS[subject.name]
    both = [{**cacher, **compiler} for cacher in cachers for compiler in WITH_CACHERS]
    for recipe in [*COMPILERS, *cachers, *both]:
        name = str(gs.Recipe.of(recipe))
        if options.only and not any(o in name for o in options.only):
            continue
        try:
            found.append(row(subject, recipe, original, options.rounds, known))
        except GearshiftError as error:
            found.append(Row(f"{name}: not measured, {' '.join(str(error).split())}"))
        print(subject.name, found[-1].name, found[-1].cells, flush=True)
    return found


def section(subject: Subject, table: list[Row]) -> dict[str, Any]:
    about = f"{machine_description()}; {len(subject.prompts)} image(s) of {subject.steps} steps in a call."
    return {"about": about, "rows": json.loads(to_json(COLUMNS, table)), "text": to_markdown(COLUMNS, table)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CACHERS), default=list(CACHERS))
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only recipes with one of these in their name")
    parser.add_argument("--restart", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    subjects = [Subject(name, options.images, options.steps) for name in options.models]
    if options.restart:
        restart(subjects[0], options.restart)
        return
    path = FILE.with_suffix(".json")
    data = json.loads(path.read_text()) if path.exists() else {}
    for subject in subjects:
        data[f"{subject.name}, {options.images} image(s)"] = made = section(subject, rows(subject, options))
        print(made["text"], flush=True)
        if not options.only:
            write_atomically(path, json.dumps(data, indent=1) + "\n")
    if not options.only:
        pages = ["# Compilers\n", *(f"## {n}\n\n{d['about']}\n\n{d['text']}" for n, d in data.items())]
        write_atomically(FILE.with_suffix(".md"), "\n".join(pages))


if __name__ == "__main__":
    main()
