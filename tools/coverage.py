"""Run every quantizer of language models on every causal architecture of transformers, and write docs/coverage.md.

Each tiny model is quantized with default settings, run, saved, loaded and run again: which layers were replaced,
whether the output is finite and near the float model's, and whether the loaded model gives equal bits. Takes about half
an hour; what was found is kept in build/coverage.json, from which an interrupted run goes on.

usage: python tools/coverage.py [--only ARCHITECTURE ...] [--anew]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
import transformers  # noqa: E402
from support.causal import VOCABULARY, architectures, causal, logits  # noqa: E402

import gearshift as gs  # noqa: E402
from gearshift.algorithms.quantizers import LayerQuantizer, sqnr  # noqa: E402
from gearshift.core.facts import Kind, Trait  # noqa: E402
from gearshift.core.files import write_atomically  # noqa: E402
from gearshift.core.registry import registry  # noqa: E402
from gearshift.layers.base import QuantizedLayer  # noqa: E402
from gearshift.layers.linear_view import is_linear  # noqa: E402

KEPT, PAGE = ROOT / "build" / "coverage.json", ROOT / "docs" / "coverage.md"
COMPILES = "torchao_autoquant"  # it leaves layers as small as these
FLOOR = 3.0  # dB of the logits; made-up weights are harder on 4 bits than trained ones


def quantizers() -> list[str]:
    """Names of the algorithms that replace a language model's linear layers."""
    found = [c for c in registry() if Kind.LANGUAGE in c.facts.kinds and Trait.LINEAR in c.facts.needs]
    taking = [c for c in found if Trait.FLOAT_WEIGHTS in c.facts.removes and Trait.TORCH_FORWARD not in c.facts.removes]
    return [c.name for c in taking if c.name != COMPILES]


def tried(architecture: str, quantizer: str) -> dict[str, Any]:
    """Layers taken and left, SQNR in dB, and what went wrong ('' if nothing did)."""
    model = causal(architecture)
    exact = logits(model)
    draw = torch.Generator().manual_seed(2)
    data = [torch.randint(3, VOCABULARY, (2, 24), generator=draw) for _ in range(2)]
    try:
        gs.optimize(model, quantizer, data=data)
        output = logits(model)
        layers = [m for m in model.modules() if is_linear(m) or isinstance(m, QuantizedLayer)]
        taken = sum(isinstance(m, QuantizedLayer) for m in layers)
        left = gs.status(model).applied[0]["figures"].get("left", {})
        row = {"taken": taken, "linear": len(layers), "left": sorted(set(left.values())), "sqnr": sqnr(exact, output)}
        row["problem"] = _problem(model, output, row)
    except Exception as error:  # it is what the table is for
        row = {"problem": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
    return row


def _problem(model: Any, output: torch.Tensor, row: dict[str, Any]) -> str:
    if not bool(output.isfinite().all()):
        return "the output is not finite"
    if row["sqnr"] < FLOOR:
        return f"{row['sqnr']:.1f} dB"
    with tempfile.TemporaryDirectory() as folder:
        gs.save(model, Path(folder) / "model")
        again = logits(gs.load(Path(folder) / "model"))
    return "" if torch.equal(output, again) else "loaded, it differs"


def page(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The table as Markdown."""
    names = [name for name in quantizers() if any(name in rows for rows in found.values())]
    lines = [
        "<!-- made by tools/coverage.py; do not edit -->\n",
        "# Which layers of language models are quantized\n",
        f"{len(found)} causal architectures of transformers, each made tiny with drawn weights. Every quantizer was "
        "applied with default settings, run, saved and loaded; the loaded model has to give equal bits. The output "
        "head and the embeddings stay in float (ipex_llm takes the head too).\n",
        "| quantizer | architectures without a problem | median SQNR of the logits |\n|---|---|---|",
    ]
    for name in names:
        rows = [of[name] for of in found.values() if name in of]
        good = [row["sqnr"] for row in rows if not row["problem"]]
        lines.append(f"| {name} | {len(good)} of {len(rows)} | {median(good or [0.0]):.0f} dB |")
    lines.append("\n| architecture | linear layers replaced | left, and why | problems |\n|---|---|---|---|")
    for architecture, rows in found.items():
        whole = [row for row in rows.values() if "taken" in row]
        counts = Counter((row["taken"], row["linear"]) for row in whole)
        taken, linear = counts.most_common(1)[0][0] if counts else (0, 0)
        left = sorted({reason for row in whole for reason in row["left"]})
        wrong = [f"{name}: {row['problem']}" for name, row in rows.items() if row["problem"]]
        lines.append(f"| {architecture} | {taken} of {linear} | {'; '.join(left)} | {'; '.join(wrong)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--anew", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    LayerQuantizer.timed_call = lambda *_: None  # type: ignore[method-assign]  # speed is no question here
    KEPT.parent.mkdir(exist_ok=True)
    found = json.loads(KEPT.read_text()) if KEPT.is_file() and not options.anew else {}
    for architecture in options.only or architectures():
        try:
            causal(architecture)
        except ValueError:
            continue
        rows = found.setdefault(architecture, {})
        for quantizer in quantizers():
            if quantizer not in rows or options.only:
                rows[quantizer] = tried(architecture, quantizer)
        print(
            architecture, {name: row["problem"] for name, row in rows.items() if row["problem"]} or "fine", flush=True
        )
        KEPT.write_text(json.dumps(found))
    write_atomically(PAGE, page(dict(sorted(found.items()))))


if __name__ == "__main__":
    main()
