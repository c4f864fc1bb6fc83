"""Every quantizer on every model of the zoo: size, speed, fidelity, and how long quantizing takes.

Speed is that of whole eager calls against the float32 original, in turns in the same run. Fidelity is the SQNR of the
final latents to the same seeds, or the perplexity on text that the language model never saw. Every quantized model is
saved, loaded and compared bit for bit.

usage: python benchmarks/quantizers.py [--models text-to-image dit flux llama] [--steps 20] [--images 4]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caching
import torch

import gearshift as gs
from gearshift import zoo
from gearshift.core.facts import Family, Kind
from gearshift.core.model import size_bytes
from gearshift.core.registry import registry
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_json, to_markdown
from gearshift.evaluate.timing import machine
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
    Column("speed", "speed over the original", "x", ".2f", "higher"),
    Column("fidelity", "SQNR (dB), or perplexity", "", ".2f"),
    Column("seconds", "quantizing", "s", ".1f"),
    Column("exact", "saved and loaded, equal bits", "", ".0f"),
]


class Subject:
    """One model of the zoo, how it is called and judged."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.steps = name, options.steps
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


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def row(subject: Subject, name: str, values: dict[str, Any], original: Any, reference: torch.Tensor) -> Row:
    model, recipe = subject.load(), {name: values}
    took = seconds(lambda: gs.optimize(model, recipe, data=subject.data, tokenizer=subject.tokenizer))
    subject.call(model)
    turns = [(seconds(lambda: subject.call(original)), seconds(lambda: subject.call(model))) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        gs.save(model, Path(folder) / "m")
        equal = torch.equal(subject.call(gs.load(Path(folder) / "m")), subject.call(model))
    cells = {
        "size": size_bytes(model) / size_bytes(original),
        "speed": min(t[0] for t in turns) / min(t[1] for t in turns),
        "fidelity": subject.fidelity(model, reference),
        "seconds": took,
        "exact": float(equal),
    }
    words = ", ".join(f"{k}={v}" for k, v in values.items())
    return Row(f"{name}({words})" if words else name, name, cells)


def rows(subject: Subject) -> list[Row]:
    original = subject.load()
    reference = subject.call(original)
    start = {"size": 1.0, "speed": 1.0}
    if subject.name == "llama":
        start["fidelity"] = subject.fidelity(original, reference)
    found = [Row("original", "", start)]
    for cls in registry():
        if cls.facts.family is not Family.QUANTIZER or subject.kind not in cls.facts.kinds:
            continue
        for values in VARIANTS.get(cls.name, [{}]):
            try:
                found.append(row(subject, cls.name, values, original, reference))
                shown = {k: round(v, 3) for k, v in found[-1].cells.items() if v is not None and not math.isnan(v)}
                print(subject.name, found[-1].name, shown, flush=True)
            except Exception as error:
                print(subject.name, cls.name, values, "fails:", " ".join(str(error).split())[:200], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = FILE.with_suffix(".json")
    data = json.loads(path.read_text()) if path.exists() else {}
    for name in options.models:
        table = rows(Subject(name, options))
        about = f"{machine()}; {options.images} images of {options.steps} steps, or 4 windows of 256 tokens."
        data[name] = {"about": about, "rows": json.loads(to_json(COLUMNS, table)), "text": to_markdown(COLUMNS, table)}
        path.write_text(json.dumps(data, indent=1) + "\n")
    pages = ["# Quantizers\n", *(f"## {n}\n\n{d['about']}\n\n{d['text']}" for n, d in data.items())]
    FILE.with_suffix(".md").write_text("\n".join(pages))


if __name__ == "__main__":
    main()
