"""Language models one token at a time: tokens a second beside eager PyTorch, weights, and whether the text stays.

Speed is that of a Llama of 374 million random weights (24 layers of 1024), batch 1, one thread: a prompt of 16 tokens,
32 new ones. Each way takes turns with the float32 original, whose seconds are measured anew beside it. The text is that
of the zoo's Llama: prompts that it was not trained on, continued greedily by the original and by each way.

usage: python benchmarks/language.py [--rounds 5] [--only NAME ...] [--quick]

Prints a table; a whole run writes benchmarks/language.md and .json. Needs `pip install -e '.[demo,ctranslate2]'`.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import gearshift as gs
from gearshift.core.errors import BrokenFolder, GearshiftError
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_markdown, write_tables
from gearshift.evaluate.timing import interleaved, machine_description
from gearshift.zoo.language import load_language, validation_text

SIZES = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24}
SMALL = {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 16}
PROMPT, NEW = 16, 32
TEXTS, CONTEXT, CONTINUED = 32, 32, 64  # of the zoo's Llama: prompts, tokens in each, new tokens
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "half": {"half": {}},
    "c_generate, 16 bits": {"c_generate": {"weight_bits": 16}},
    "c_generate, 8 bits": {"c_generate": {"weight_bits": 8}},
    "ipex_llm, 8 bits": {"ipex_llm": {"weight_bits": 8}},
    "ipex_llm, 4 bits": {"ipex_llm": {"weight_bits": 4}},
    "torch_dynamic": {"torch_dynamic": {}},
    "torch_compile": {"torch_compile": {}},
}
COLUMNS = [
    Column("tokens", "speed", "tokens/s", ".2f", "higher"),
    Column("ratio", "over float32 beside it", "x", ".2f", "higher", worse="slower"),
    Column("spread", "spread of the rounds", "%", ".0f"),
    Column("megabytes", "weights", "MB", ".0f", "lower"),
    Column("size", "of float32's", "%", ".0f", "lower"),
    Column("alike", "tokens up to the first other one", "%", ".1f", "higher"),
    Column("whole", "texts wholly equal", "%", ".0f", "higher"),
]


def random_llama(sizes: dict[str, int]) -> Any:
    """The same weights at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**sizes, **HEADS)).eval().requires_grad_(False)


def continued(model: Any, prompts: torch.Tensor, count: int) -> torch.Tensor:
    """Exactly so many greedy tokens after each prompt, int64 [prompts, count]."""
    tokens = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
    )
    return tokens[:, prompts.shape[1] :]


def speed(recipe: dict[str, Any], sizes: dict[str, int], rounds: int) -> dict[str, float]:
    """One way beside the original, in turns; seconds are the median's."""
    plain, made = random_llama(sizes), gs.optimize(random_llama(sizes), recipe)
    prompt = torch.randint(0, sizes["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(0))
    calls = {"plain": lambda: continued(plain, prompt, NEW), "made": lambda: continued(made, prompt, NEW)}
    times = interleaved(calls, repeats=rounds, warmup=3)  # compilers meet the lengths of a call twice
    before, after = gs.status(plain).size, gs.status(made).size
    return {
        "tokens": NEW / times["made"].median,
        "ratio": times["plain"].median / times["made"].median,
        "spread": 100 * max(t.spread for t in times.values()),
        "megabytes": after / 1e6,
        "size": 100 * after / before,
    }


def texts(tokenizer: Any, count: int) -> torch.Tensor:
    """Prompts from all over the validation text, int64 [count, CONTEXT]."""
    ids = torch.tensor(tokenizer(validation_text(), add_special_tokens=False, verbose=False).input_ids)
    starts = torch.linspace(0, len(ids) - CONTEXT, count).long()
    return torch.stack([ids[start : start + CONTEXT] for start in starts])


def agreement(recipe: dict[str, Any], count: int) -> dict[str, float]:
    """How much of the zoo's Llama's text stays; nothing where the zoo's Llama is not there."""
    try:
        plain, tokenizer = load_language()
    except BrokenFolder:
        return {}
    made = gs.optimize(load_language()[0], recipe)
    prompts = texts(tokenizer, count)
    equal = [continued(made, p[None], CONTINUED)[0] == continued(plain, p[None], CONTINUED)[0] for p in prompts]
    prefixes = torch.stack(equal).long().cumprod(1).float()
    return {"alike": 100 * float(prefixes.mean()), "whole": 100 * float(prefixes[:, -1].mean())}


def row(name: str, recipe: dict[str, Any], options: argparse.Namespace) -> Row:
    """Measure one way; one that cannot be had here says why."""
    sizes, rounds, count = (SMALL, 2, 4) if options.quick else (SIZES, options.rounds, TEXTS)
    try:
        cells = speed(recipe, sizes, rounds) | agreement(recipe, count)
    except GearshiftError as error:
        return Row(f"{name}: not measured, {' '.join(str(error).split())}")
    finally:
        gc.collect()
    return Row(name, str(gs.Recipe.of(recipe)), cells)


def original(sizes: dict[str, int], rounds: int) -> Row:
    plain = random_llama(sizes)
    prompt = torch.randint(0, sizes["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(0))
    timing = interleaved({"": lambda: continued(plain, prompt, NEW)}, repeats=rounds)[""]
    size = gs.status(plain).size / 1e6
    cells = {
        "tokens": NEW / timing.median,
        "ratio": 1.0,
        "spread": 100 * timing.spread,
        "megabytes": size,
        "size": 100.0,
    }
    return Row("float32 eager", "", cells, original=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that the rows themselves show as numbers."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only ways whose name has one of these in it")
    parser.add_argument(
        "--quick", action="store_true", help="a small model, two rounds, four texts; nothing is written"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = {n: r for n, r in WAYS.items() if options.only is None or any(o in n for o in options.only)}
    with quiet():
        rows = [original(SMALL if options.quick else SIZES, 2 if options.quick else options.rounds)]
        for name, recipe in wanted.items():
            rows.append(row(name, recipe, options))
            print(to_markdown(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
    print(to_markdown(COLUMNS, rows))
    if options.quick or options.only:
        return
    about = f"{machine_description()}; batch 1, {PROMPT} tokens in and {NEW} out; "
    about += f"text of {TEXTS} prompts, {CONTINUED} tokens each."
    page, _ = write_tables(Path(__file__).with_suffix(""), COLUMNS, rows, about=about, sizes=SIZES)
    write_atomically(page, f"# Language models, one token at a time\n\n{about}\n\n{page.read_text()}")


if __name__ == "__main__":
    main()
