"""Int8 layers against float32 ones on this machine: ratios of CPU time, side by side, one thread.

python benchmarks/int8.py        prints the tables and writes this machine's into int8.json and int8.md

Readings are the best of several turns of process CPU time, the candidates of a row taking turns. Errors are relative
(Frobenius), against float64, on Gaussian inputs and weights; convolutions get silu of a Gaussian.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gearshift.core.files import write_atomically
from gearshift.kernels.cpu import onednn
from gearshift.layers.int8 import Int8Conv2d, Int8Linear
from gearshift.quant.formats.int8 import as_signed, quantize_weight

LINEARS = [(1024, 384, 384), (256, 1152, 1152), (1024, 768, 3072), (512, 768, 768), (64, 768, 768), (1, 768, 3072)]
CONVS = [  # batch, channels in and out, kernel, stride, side
    (16, 64, 64, 3, 1, 8),
    (16, 128, 128, 3, 1, 8),
    (1, 128, 128, 3, 1, 32),
    (2, 128, 128, 3, 2, 32),
    (2, 320, 640, 1, 1, 32),
    (2, 320, 320, 3, 1, 64),
    (2, 1280, 1280, 3, 1, 8),
]
Call = Callable[[], torch.Tensor]
Row = dict[str, Any]


class Block(nn.Module):
    """A transformer block as in DiT (adaLN left out): attention and a feed-forward part four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


def best_of(calls: dict[str, Call], budget: float) -> dict[str, float]:
    """Milliseconds of CPU time, the best of all turns within `budget` seconds (two turns at the least)."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    turns, end = 0, time.process_time() + budget
    while turns < 2 or time.process_time() < end:
        for name, call in calls.items():
            before = time.process_time()
            call()
            best[name] = min(best[name], 1000 * (time.process_time() - before))
        turns += 1
    return best


def compare(shape: str, calls: dict[str, Call], exact: torch.Tensor, budget: float = 2.0) -> Row:
    """One row: milliseconds of each call, its ratio to 'fp32', its relative error."""
    errors = {name: float((call().double() - exact).norm() / exact.norm()) for name, call in calls.items()}
    times = best_of(calls, budget)
    row = {n: {"ms": times[n], "ratio": times["fp32"] / times[n], "error": errors[n]} for n in calls}
    print(shape, {n: f"{c['ratio']:.2f}x {c['error']:.4f}" for n, c in row.items()}, flush=True)
    return {"shape": shape, "paths": row}


@contextlib.contextmanager
def quantized_engine(name: str) -> Any:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def linear_dynamic(x: torch.Tensor, layer: nn.Linear, reduce_range: bool) -> Call:
    """torch's own dynamic int8 linear, the path to beat."""
    quantized = quantize_weight(layer.weight)
    zeros = torch.zeros(layer.out_features, dtype=torch.long)
    weight = torch._make_per_channel_quantized_tensor(quantized.values, quantized.scale.double(), zeros, 0)
    with quantized_engine("onednn"):
        packed = torch.ops.quantized.linear_prepack(weight, layer.bias.detach())
    return lambda: torch.ops.quantized.linear_dynamic(x, packed, reduce_range)


def bare_product(x: torch.Tensor, layer: nn.Linear) -> Call:
    """The ceiling: onednn's product alone, codes and layouts made beforehand, one range, bias added by the kernel."""
    quantized = quantize_weight(layer.weight, pair_safe=onednn.saturates())
    weight = torch.ops.onednn.qlinear_prepack(as_signed(quantized.values), None)
    step = float(x.abs().max()) / 127
    codes = (x / step + 128).round().to(torch.uint8)
    zeros, bias = torch.zeros(layer.out_features, dtype=torch.int32), layer.bias.detach()
    rest: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise(codes, step, 128, weight, quantized.scale, zeros, bias, *rest)


def linear_row(tokens: int, width: int, out: int) -> Row:
    x, layer = torch.randn(tokens, width), nn.Linear(width, out)
    nn.init.normal_(layer.weight, std=width**-0.5)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    signed, unsigned = Int8Linear.from_float(layer), Int8Linear.from_float(layer, unsigned=True)
    calls: dict[str, Call] = {
        "fp32": lambda: layer(x),
        "Int8Linear": lambda: signed(x),
        "Int8Linear quint8": lambda: unsigned(x),
        "linear_dynamic": linear_dynamic(x, layer, False),
        "linear_dynamic 7 bit": linear_dynamic(x, layer, True),
        "bare product": bare_product(x, layer),
    }
    return compare(f"{tokens} x {width} -> {out}", calls, exact)


def conv_row(batch: int, channels: int, out: int, kernel: int, stride: int, side: int) -> Row:
    x, layer = F.silu(torch.randn(batch, channels, side, side)), nn.Conv2d(channels, out, kernel, stride, kernel // 2)
    nn.init.normal_(layer.weight, std=(channels * kernel**2) ** -0.5)
    last, twin = x.to(memory_format=torch.channels_last), Int8Conv2d.from_float(layer)
    assert twin is not None
    float_last = nn.Conv2d(channels, out, kernel, stride, kernel // 2).to(memory_format=torch.channels_last)
    float_last.load_state_dict(layer.state_dict())
    calls: dict[str, Call] = {
        "fp32": lambda: layer(x),
        "fp32 channels_last": lambda: float_last(last),
        "Int8Conv2d": lambda: twin(x),
        "Int8Conv2d channels_last": lambda: twin(last),
    }
    name = f"{batch} x {channels} -> {out}, {kernel}x{kernel}, stride {stride}, {side}x{side}"
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), stride, kernel // 2)
    return compare(name, calls, exact)


def stack_row(width: int, depth: int, tokens: int) -> Row:
    stack = nn.Sequential(*[Block(width, width // 64) for _ in range(depth)])
    swapped = nn.Sequential(*[Block(width, width // 64) for _ in range(depth)])
    swapped.load_state_dict(stack.state_dict())
    for block in swapped:
        for name in ("qkv", "out", "up", "down"):
            setattr(block, name, Int8Linear.from_float(getattr(block, name)))
    x = torch.randn(2, tokens, width)
    calls: dict[str, Call] = {"fp32": lambda: stack(x), "all linears int8": lambda: swapped(x)}
    return compare(f"{depth} DiT blocks, width {width}, 2 x {tokens} tokens", calls, stack(x).double(), 8.0)


def machine() -> str:
    kind = "without VNNI" if onednn.saturates() else "with VNNI"
    return f"{os.cpu_count()}-core {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {kind}"


def markdown(machines: dict[str, Row]) -> str:
    lines = ["# Int8 layers\n\nA cell: speed as a multiple of fp32's, CPU time, relative error.\n"]
    for name, facts in machines.items():
        lines.append(f"\n## {name}\n\nTorch {facts['torch']}; one thread; seed 0.\n")
        for title, rows in facts["tables"].items():
            names = list(rows[0]["paths"])
            lines += [f"\n### {title}\n", f"| shape | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            for row in rows:
                cells = [f"{c['ratio']:.2f}x, {c['ms']:.2f} ms, {c['error']:.4f}" for c in row["paths"].values()]
                lines.append(f"| {row['shape']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def main() -> None:
    warnings.filterwarnings("ignore", message=".*quantized tensor creation.*")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tables = {
        "Linear": [linear_row(*shape) for shape in LINEARS],
        "Convolution": [conv_row(*shape) for shape in CONVS],
        "Stack": [stack_row(384, 4, 256), stack_row(768, 4, 256)],
    }
    here = Path(__file__).with_suffix("")
    found = here.with_suffix(".json")
    machines = json.loads(found.read_text()) if found.exists() else {}
    machines[machine()] = {"torch": torch.__version__, "threads": 1, "seed": 0, "tables": tables}
    write_atomically(found, json.dumps(machines, indent=1) + "\n")
    write_atomically(here.with_suffix(".md"), markdown(machines))


if __name__ == "__main__":
    main()
