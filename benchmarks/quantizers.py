"""Every quantizer on every model of the zoo: size, speed, fidelity, and how long quantizing takes.

Speed is that of whole calls against the eager float32 original, in turns in the same run: as it is, and with
torch_compile (inductor) behind the quantizer, both warm. Fidelity is the SQNR of the final latents to the same seeds,
or the perplexity on text that the language model never saw. Every quantized model is saved, loaded and compared bit
for bit.

usage: python benchmarks/quantizers.py [--models NAME ...] [--only QUANTIZER ...] [--steps 20] [--images 4] [--eager]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import caching
import torch

import gearshift as gs
from gearshift import zoo
from gearshift.core.facts import Family, Kind
from gearshift.core.files import write_atomically
from gearshift.core.model import size_bytes
from gearshift.core.registry import registry
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import call_seconds, interleaved, machine_description
from gearshift.zoo import language

FILE = Path(__file__).with_suffix("")
MODELS = ("text-to-image", "dit", "flux", "llama")
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "hqq": [{"weight_bits": b} for b in (8, 4, 2)],
    "hqq_diffusers": [{"weight_bits": b} for b in (8, 4, 2)],
    "gptq": [{"weight_bits": b} for b in (8, 4, 3)],
    "llm_int8": [{}, {"weight_bits": 4}, {"weight_bits": 4, "quant_type": "nf4"}],
    "diffusers_int8": [{}, {"weight_bits": 4}, {"weight_bits": 4, "quant_type": "nf4"}],
    "quanto": [{"weight_bits": b} for b in ("qint8", "qfloat8", "qint4")],
    "torchao": [{"quant_type": t} for t in ("int8dq", "int8wo", "fp8wo")],
    "higgs": [{"weight_bits": 4, "group_size": 64}, {"weight_bits": 3, "group_size": 64}],
    "diffusers_higgs": [{"weight_bits": 4, "group_size": 64}, {"weight_bits": 3, "group_size": 64}],
    "torchao_autoquant": [{"compile": False}],
}
COLUMNS = [
    Column("size", "size over the original", "x", ".2f"),
    Column("speed", "eager over the original", "x", ".2f", "higher", worse="slower"),
    Column("compiled", "compiled over the original", "x", ".2f", "higher", worse="slower"),
    Column("fidelity", "SQNR (dB), or perplexity", "", ".2f"),
    Column("seconds", "quantizing", "s", ".1f"),
    Column("compiling", "first compiled call", "s", ".0f"),
    Column("exact", "saved and loaded, equal bits", "", ".0f"),
]


class Subject:
    """One model of the zoo, how it is called and judged."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.steps, self.compiling = name, options.steps, not options.eager
        if name == "llama":
            self.data: Any = [language.calibration_text()[:40_000]]
            self.tokenizer: Any = language.load_language()[1]
            self.kind = Kind.LANGUAGE
        else:
            self.kind, self.tokenizer = Kind.DIFFUSION, None
            self.prompts = caching.prompt_set("report", options.images)
            call = {**caching.arguments(name, caching.prompt_set("search", 4)), "num_inference_steps": 8}
            call.pop("generator")
            self.data = [{**call, "output_type": "latent"}]

    def optimize(self, model: Any, recipe: dict[str, Any]) -> Any:
        return gs.optimize(model, recipe, data=self.data, tokenizer=self.tokenizer)

    def load(self) -> Any:
        return language.load_language()[0] if self.name == "llama" else zoo.load(self.name)

    def call(self, model: Any) -> torch.Tensor:
        if self.name == "llama":
            with torch.no_grad():
                return model(input_ids=torch.arange(4 * 256).view(4, 256) % 4096).logits
        given = {**caching.arguments(self.name, self.prompts), "num_inference_steps": self.steps}
        made = model(**{**given, "output_type": "latent"} if self.name != "dit" else {**given, "output_type": "np"})
        return torch.as_tensor(made.images).float()

    def fidelity(self, model: Any, reference: torch.Tensor) -> float:
        if self.name == "llama":
            return language.perplexity(model, self.tokenizer, language.validation_text())
        off = (self.call(model) - reference).double().square().sum()
        return float(10 * (reference.double().square().sum() / off.clamp_min(1e-30)).log10())


def row(subject: Subject, name: str, values: dict[str, Any], original: Any, reference: torch.Tensor) -> Row:
    model, recipe = subject.load(), {name: values}
    took = call_seconds(lambda: subject.optimize(model, recipe))
    with tempfile.TemporaryDirectory() as folder:
        gs.save(model, Path(folder) / "m")
        equal = torch.equal(subject.call(gs.load(Path(folder) / "m")), subject.call(model))
    cells = {
        "size": size_bytes(model) / size_bytes(original),
        **speeds(subject, original, model, recipe),
        "fidelity": subject.fidelity(model, reference),
        "seconds": took,
        "exact": float(equal),
    }
    words = ", ".join(f"{k}={v}" for k, v in values.items())
    return Row(f"{name}({words})" if words else name, name, cells)


def speeds(subject: Subject, original: Any, model: Any, recipe: dict[str, Any]) -> dict[str, float]:
    """Eager and compiled, in turns with the original; what does not compile has no speed compiled."""
    calls, compiling = {"original": lambda: subject.call(original), "speed": lambda: subject.call(model)}, {}
    if subject.compiling:
        try:
            compiled = subject.optimize(subject.load(), {**recipe, "torch_compile": {}})
            compiling["compiling"] = call_seconds(lambda: subject.call(compiled))
            calls["compiled"] = lambda: subject.call(compiled)
        except Exception as error:
            print(subject.name, recipe, "does not compile:", " ".join(str(error).split())[:200], flush=True)
    times = interleaved(calls, repeats=3)
    first = times.pop("original").median
    return {name: first / timing.median for name, timing in times.items()} | compiling


def rows(subject: Subject, only: list[str] | None) -> list[Row]:
    original = subject.load()
    reference = subject.call(original)
    start = {"size": 1.0, **speeds(subject, original, original, {})}
    if subject.name == "llama":
        start["fidelity"] = subject.fidelity(original, reference)
    found = [Row("original", "", start)]
    for cls in registry():
        if cls.facts.family is not Family.QUANTIZER or subject.kind not in cls.facts.kinds:
            continue
        if only is not None and cls.name not in only:
            continue
        for values in VARIANTS.get(cls.name, [{}]):
            try:
                found.append(row(subject, cls.name, values, original, reference))
                shown = {k: round(v, 3) for k, v in found[-1].cells.items() if v is not None and not math.isnan(v)}
                print(subject.name, found[-1].name, shown, flush=True)
            except Exception as error:
                print(subject.name, cls.name, values, "fails:", " ".join(str(error).split())[:200], flush=True)
    return found


def replaced(known: list[dict[str, Any]], new: list[Row]) -> list[Row]:
    """The rows of an earlier run, with those of this one in their places."""
    fresh = {row.name: row for row in new}
    return [fresh.get(r["name"], Row(r["name"], r["recipe"], r["cells"])) for r in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these quantizers; other rows stay as they were")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--eager", action="store_true", help="without compiling, which takes most of the time")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = FILE.with_suffix(".json")
    for name in options.models:
        table = rows(Subject(name, options), options.only)
        data = json.loads(path.read_text()) if path.exists() else {}
        if options.only:
            table = replaced(data[name]["rows"]["rows"], table[1:])
        about = (
            f"{machine_description()}; {options.images} images of {options.steps} steps, or 4 windows of 256 tokens."
        )
        data[name] = {"about": about, "rows": json.loads(to_json(COLUMNS, table)), "text": to_markdown(COLUMNS, table)}
        write_atomically(path, json.dumps(data, indent=1) + "\n")
    pages = ["# Quantizers\n", *(f"## {n}\n\n{d['about']}\n\n{d['text']}" for n, d in data.items())]
    write_atomically(FILE.with_suffix(".md"), "\n".join(pages))


if __name__ == "__main__":
    main()
