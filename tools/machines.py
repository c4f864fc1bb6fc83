"""What was run on which hardware, read from the machines that the benchmarks wrote down."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from measured import BENCHMARKS, read

from gearshift.core.registry import registry

KINDS = {  # in words: what names such a machine, and torch's name of the device
    "CPU with AVX2": (r"AVX2", "cpu"),
    "CPU with AVX-512 and VNNI": (r"VNNI \+ AVX-512|with VNNI", "cpu"),
    "CPU with AMX": (r"AMX", "cpu"),
    "NVIDIA GPU (CUDA)": (r"NVIDIA|CUDA", "cuda"),
    "Apple GPU (MPS)": (r"Apple|MPS", "mps"),
}
HEAD = """# What was run on what

The tests run on CPUs. Hardware counts as run where a committed table of a benchmark names it. For other hardware there
are code paths that nobody has measured.

"""
DETAILS = """
## Machines of the benchmarks

Each table in [Benchmarks](benchmarks.md) was measured on the machine that it names:

| benchmark | machine |
|---|---|
"""


def hardware() -> str:
    """The page: the matrix, then the machine of each benchmark."""
    rows = "".join(f"| {name} | {'<br>'.join(sorted(found))} |\n" for name, found in _machines().items())
    return f"{HEAD}{matrix('benchmarks.md')}\n{DETAILS}{rows}"


def matrix(link: str) -> str:
    """One row for each kind of hardware: how many algorithms declare it, and which benchmarks ran there."""
    ran = defaultdict(list)
    for name, machines in _machines().items():
        for kind in {_kind(machine) for machine in machines}:
            ran[kind].append(f"[{name}]({link}#{name})")
    lines = ["| hardware | algorithms for it | benchmarks run on it |", "|---|---:|---|"]
    for kind, (_, device) in KINDS.items():
        count = sum(device in cls.facts.devices for cls in registry())
        lines.append(f"| {kind} | {count} | {', '.join(ran[kind]) or '**not run**'} |")
    return "\n".join(lines)


def _machines() -> dict[str, set[str]]:
    """The machines of each benchmark."""
    names = sorted(path.stem for path in BENCHMARKS.glob("*.json"))
    return {name: set(_named(read(name))) for name in names}


def _named(value: Any) -> Iterator[str]:
    """Every machine that is named in what a benchmark wrote."""
    if isinstance(value, dict):
        yield from (key for key in value if re.match(r"\d+-core", key))
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, str) and re.match(r"\d+ CPU cores", value):
        yield value.partition(";")[0].rstrip(".")


def _kind(machine: str) -> str:
    """The kind of a machine: the last that its name speaks of."""
    return [kind for kind, (word, _) in KINDS.items() if re.search(word, machine.replace("without VNNI", ""))][-1]
