"""What gears gain on the clock: a DiT as wide as real ones, with random weights, so that only its time means anything.

The presets of `adaptive_precision` beside float32 and beside int8 throughout (`torch_dynamic`), one image with
guidance, taking turns in one run. What gears cost in quality the zoo's trained models show (benchmarks/precision.py);
their layers are too narrow for int8 to be faster.

usage: python benchmarks/gears.py [--width 768] [--layers 12] [--steps 20] [--rounds 3]

Prints a table and writes benchmarks/gears.md and .json.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

import gearshift as gs
from gearshift.core.files import write_atomically
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_markdown, write_tables
from gearshift.evaluate.timing import interleaved, machine_description

WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "int8 throughout": {"torch_dynamic": {}},
    **{f"gears, {name}": {"adaptive_precision": {"profile": name}} for name in ("performance", "balanced", "quality")},
}
COLUMNS = [
    Column("seconds", "time", "s/image", ".2f", "lower"),
    Column("speed", "speed-up", "x", ".2f", "higher", worse="slower"),
    Column("spread", "spread of the rounds", "%", ".0f"),
    Column("size", "weights kept", "MB", ".0f", "lower"),
]


def pipeline(width: int, layers: int) -> Any:
    """A DiT of 256 tokens; the same weights at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DiTTransformer2DModel(
            num_attention_heads=width // 64, attention_head_dim=64, in_channels=4, out_channels=8, num_layers=layers,
            sample_size=32,
        )  # fmt: skip
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4)
    pipe = DiTPipeline(net, vae, DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, steps: int) -> Any:
    return pipe([1], generator=torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="np")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipes = {name: gs.optimize(pipeline(options.width, options.layers), recipe) for name, recipe in WAYS.items()}
    calls = {name: partial(call, pipe, options.steps) for name, pipe in pipes.items()}
    times = interleaved(calls, repeats=options.rounds)
    rows = []
    for name, pipe in pipes.items():
        cells: dict[str, Any] = {
            "seconds": times[name].median,
            "speed": times["float32"].median / times[name].median,
            "spread": 100 * times[name].spread,
            "size": gs.status(pipe).size / 1e6,
        }
        rows.append(Row(name, str(gs.Recipe.of(WAYS[name])) if WAYS[name] else "", cells, original=name == "float32"))
    print(to_markdown(COLUMNS, rows))
    about = (
        f"{machine_description()}; DiT of {options.layers} blocks, width {options.width}, 256 tokens, random weights; "
        f"{options.steps} steps with guidance, one image."
    )
    page, _ = write_tables(Path(__file__).with_suffix(""), COLUMNS, rows, about=about)
    write_atomically(page, f"# Gears on the clock\n\n{about}\n\n{page.read_text()}")


if __name__ == "__main__":
    main()
