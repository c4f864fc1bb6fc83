"""What recoverers win back, and how few steps a distilled pipeline needs.

Language: the zoo's Llama, pruned, quantized or shrunk, then trained on its calibration text and as much that the
original wrote; perplexity on the text it never saw. Images: the zoo's pipelines, quantized, cached or pruned harshly,
then trained on their own runs; judged by the judge on held-out prompts.

usage: python benchmarks/recovery.py [--only SECTION ...] [--epochs 6] [--images 160]

Sections: pruned, quantized, shrunk, images, cached, dit, hyper.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gearshift as gs
from gearshift import zoo
from gearshift.core.files import write_atomically
from gearshift.core.recipe import Recipe
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import interleaved, machine_description
from gearshift.training.language import own_text
from gearshift.zoo import language
from gearshift.zoo.data import COLORS, GARMENTS, Prompt, prompt_set
from gearshift.zoo.judge import Judge

FILE = Path(__file__).with_suffix("")
WINDOW, OWN_WINDOWS = 256, 110  # tokens of each window that the original writes, and how many there are
LANGUAGE = ("text_to_text_perp", "text_to_text_inplace_perp", "text_to_text_lora")
WORDS = [
    Column("perplexity", "perplexity", "", ".2f"),
    Column("back", "of the loss won back", "%", ".0f", "higher"),
    Column("seconds", "training", "s", ".0f"),
    Column("speed", "speed over the original", "x", ".2f", "higher"),
]
PICTURES = [
    Column("garment", "garment right", "%", ".1f", "higher"),
    Column("color", "color right", "%", ".1f", "higher"),
    Column("frechet", "Frechet distance", "", ".2f"),
    Column("psnr", "PSNR to the original", "dB", ".1f", "higher"),
    Column("seconds", "training", "s", ".0f"),
]


def perplexity(model: Any, tokenizer: Any) -> float:
    return language.perplexity(model, tokenizer, language.validation_text())


def speed_of(model: Any) -> float:
    """Of a batch of four windows, over the original's in turns with it."""
    tokens = torch.zeros(4, 256, dtype=torch.long)
    models = {"original": language.load_language()[0], "other": model}
    with torch.no_grad():
        times = interleaved({n: partial(m, input_ids=tokens) for n, m in models.items()}, repeats=9)
    return times["original"].median / times["other"].median


def words(harm: str, settings: dict[str, Any], names: tuple[str, ...] = LANGUAGE) -> Iterator[Row]:
    """The original, the harmed model, and what each recoverer makes of it."""
    model, tokenizer = language.load_language()
    written = own_text(model, WINDOW, 0, OWN_WINDOWS)
    original = perplexity(model, tokenizer)
    yield Row("original", "", {"perplexity": original, "speed": 1.0})
    gs.optimize(model, harm)
    harmed = perplexity(model, tokenizer)
    yield Row(harm, harm, {"perplexity": harmed, "speed": speed_of(model)})
    for name in names:
        model, tokenizer = language.load_language()
        more = {} if name == "text_to_text_inplace_perp" else {"target_modules": "all-linear", "r": 16}
        recipe = Recipe.of([harm, {name: {**settings, **more}}])
        gs.optimize(model, recipe, data=[language.calibration_text(), {"input_ids": written}], tokenizer=tokenizer)
        took = gs.status(model).applied[-1]["figures"]["seconds"]
        after = perplexity(model, tokenizer)
        back = 100 * math.log(harmed / after) / math.log(harmed / original)
        cells = {"perplexity": after, "back": back, "seconds": took, "speed": speed_of(model)}
        yield Row(f"{harm}, then {name}", name, cells)


def pictures(name: str, count: int, call: dict[str, Any], ways: dict[str, Callable[[Any], None]]) -> Iterator[Row]:
    """Judged images of the original and of what each way makes of it, same prompts and seeds."""
    judge, prompts = Judge.load(), prompt_set("report", count)
    reference = None
    for way, change in {"original": lambda pipe: None, **ways}.items():
        pipe = zoo.load(name)
        start = time.perf_counter()
        change(pipe)
        took = time.perf_counter() - start
        steps = {"num_inference_steps": 4 if "4 steps" in way else 2 if "2 steps" in way else 50}
        images = torch.cat([_images(name, pipe, prompts[i : i + 16], {**call, **steps}) for i in range(0, count, 16)])
        reference = images if reference is None else reference
        right = judge.accuracy(images, [p.garment for p in prompts], [p.color for p in prompts])
        off = (images - reference).square().flatten(1).mean(1).clamp_min(1e-10) / 4
        cells = {"garment": 100 * right[0], "color": 100 * right[1], "frechet": judge.distance(images)}
        if way != "original":
            cells |= {"psnr": float((-10 * off.log10()).mean()), "seconds": took}
        yield Row(f"{name}: {way}", way, cells)


def _images(name: str, pipe: Any, prompts: list[Prompt], call: dict[str, Any]) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(p.seed) for p in prompts]
    given = {**call, **zoo.required_arguments(name), "generator": generators}
    if name == "dit":
        labels = [p.garment * len(COLORS) + p.color for p in prompts]
        made = pipe(labels, **given, output_type="np").images
        return torch.from_numpy(made).movedim(-1, 1).float() * 2 - 1
    return pipe([p.text for p in prompts], **given, output_type="pt").images.float() * 2 - 1


def lessons(name: str, call: dict[str, Any], each: int = 16, calls: int = 8) -> list[dict[str, Any]]:
    """Calls to learn from: prompts and seeds that are not reported on."""
    prompts = prompt_set("search", each * calls)
    batches = [prompts[i : i + each] for i in range(0, len(prompts), each)]
    shared = {**call, **zoo.required_arguments(name)}
    if name == "dit":
        return [{"class_labels": [p.garment * len(COLORS) + p.color for p in b], **shared} for b in batches]
    return [{"prompt": [p.text for p in b], **shared} for b in batches]


def recovered(recipe: dict[str, Any], name: str, guidance: float, **call: Any) -> Callable[[Any], None]:
    given = {"guidance_scale": guidance, **call}
    return lambda pipe: gs.optimize(pipe, recipe, data=lessons(name, given)) and None


def sections(options: argparse.Namespace) -> Iterator[tuple[str, list[Column], Iterator[Row]]]:
    count = options.images
    settings = {"num_epochs": options.epochs, "learning_rate": 1e-3, "batch_size": 4}
    yield "pruned", WORDS, words("torch_unstructured(sparsity=0.5)", settings)
    yield "quantized", WORDS, words("hqq(weight_bits=2, group_size=32)", settings)
    yield "shrunk", WORDS, words("torch_structured(sparsity=0.3)", settings, ("text_to_text_perp",))
    perp = {"num_epochs": 3, "learning_rate": 1e-3, "r": 16, "alpha_r_ratio": 1.0}
    harsh = {"hqq_diffusers": {"weight_bits": 2, "group_size": 32}}
    ways = {
        "2 bits": lambda pipe: gs.optimize(pipe, harsh) and None,
        "2 bits, text_to_image_perp": recovered({**harsh, "text_to_image_perp": perp}, "text-to-image", 4.5),
    }
    yield "images", PICTURES, pictures("text-to-image", count, {"guidance_scale": 4.5}, ways)
    cached = {"taylor": {"order": 1, "cache_interval": 7, "start_step": 2}}
    through = {**cached, "text_to_image_perp": {**perp, "num_epochs": options.epochs, "learning_rate": 2e-4}}
    ways = {
        "9 of 50 steps computed": lambda pipe: gs.optimize(pipe, cached) and None,
        "the same, text_to_image_perp": recovered(through, "text-to-image", 4.5, num_inference_steps=50),
    }
    yield "cached", PICTURES, pictures("text-to-image", count, {"guidance_scale": 4.5}, ways)
    smaller = {"torch_structured": {"sparsity": 0.25}}
    ways = {
        "25 % of neurons gone": lambda pipe: gs.optimize(pipe, smaller) and None,
        "the same, text_to_image_perp": recovered({**smaller, "text_to_image_perp": perp}, "dit", 4.0),
    }
    yield "dit", PICTURES, pictures("dit", count, {"guidance_scale": 4.0}, ways)
    ways = {
        "4 steps, as it was": lambda pipe: None,
        "4 steps, hyper": recovered({"hyper": {}}, "text-to-image", 4.5),
        "2 steps, as it was": lambda pipe: None,
        "2 steps, hyper(aggressive)": recovered({"hyper": {"aggressive": True}}, "text-to-image", 4.5),
    }
    yield "hyper", PICTURES, pictures("text-to-image", count, {"guidance_scale": 4.5}, ways)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="SECTION")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=160)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = json.loads(FILE.with_suffix(".json").read_text()) if FILE.with_suffix(".json").exists() else {}
    about = f"{machine_description()}; {len(GARMENTS) * len(COLORS)} prompts there are, {options.images} images each."
    for name, columns, rows in sections(options):
        if options.only and name not in options.only:
            continue
        table = []
        for row in rows:
            table.append(row)
            print(row.name, {k: round(v, 2) for k, v in row.cells.items()}, flush=True)
        data[name] = {"about": about, "rows": json.loads(to_json(columns, table)), "text": to_markdown(columns, table)}
        write_atomically(FILE.with_suffix(".json"), json.dumps(data, indent=1) + "\n")
    pages = ["# Recovery and distillation\n", *(f"## {n}\n\n{d['about']}\n\n{d['text']}" for n, d in data.items())]
    write_atomically(FILE.with_suffix(".md"), "\n".join(pages))


if __name__ == "__main__":
    main()
