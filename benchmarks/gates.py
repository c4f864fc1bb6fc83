"""What a gate costs: microseconds a call of a module that does nothing, without and with gates, 30 of them a step.

usage: python benchmarks/gates.py      prints a table and writes benchmarks/gates.md and .json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

import gearshift as gs
from gearshift.core.files import write_atomically
from gearshift.core.record import Record
from gearshift.evaluate.cells import Column, Row
from gearshift.evaluate.table import to_markdown, write_tables
from gearshift.evaluate.timing import machine_description
from gearshift.models.denoiser import Denoiser
from gearshift.steps.backbone import Backbone
from gearshift.steps.gate import Gate
from gearshift.steps.predict import Copy
from gearshift.steps.rule import GateGroup, OutputRule
from gearshift.steps.trigger import Every

GATES, STEPS, ROUNDS = 30, 200, 15


class Nothing(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return hidden_states


def gated(make: Callable[[], Gate], rule: OutputRule | None = None) -> list[torch.nn.Module]:
    """Modules that do nothing, behind gates of one rule."""
    gates = [make() for _ in range(GATES)]
    for gate in gates:
        gate.attach()
        if rule is not None:
            gate.rule, gate.place = rule, GateGroup([gate])
    return [gate.module for gate in gates]


def microseconds(modules: dict[str, list[torch.nn.Module]], x: torch.Tensor, t: torch.Tensor) -> dict[str, float]:
    """Least time of a call of each in a run of many steps, runs taking turns."""
    best = dict.fromkeys(modules, float("inf"))
    for _ in range(ROUNDS):
        for name, group in modules.items():
            with gs.sampling() as run:
                start = time.perf_counter()
                for _ in range(STEPS):
                    run.branch = 0
                    for module in group:
                        module(x, t)
                    run.tick()
                best[name] = min(best[name], (time.perf_counter() - start) / STEPS / GATES * 1e6)
    return best


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    x, t = torch.zeros(2, 4, 8, 8), torch.tensor(3)
    row = Denoiser(blocks=(), attention=())
    computing = OutputRule("bench", "block", Every(1), Record(), True, Copy())
    filling = OutputRule("bench", "block", Every(10**9), Record(), True, Copy())
    modules = {
        "module alone": [Nothing() for _ in range(GATES)],
        "idle gate": gated(lambda: Gate(Nothing())),
        "block gate, computes": gated(lambda: Gate(Nothing()), computing),
        "block gate, fills in": gated(lambda: Gate(Nothing()), filling),
        "denoiser gate, no rule": gated(lambda: Backbone(Nothing(), row)),
    }
    times = microseconds(modules, x, t)
    alone = times["module alone"]
    columns = [Column("us", "a call", "us", ".2f", "lower"), Column("more", "more than alone", "us", ".2f", "lower")]
    rows = [Row(n, "", {"us": v, "more": v - alone}, original=n == "module alone") for n, v in times.items()]
    print(to_markdown(columns, rows))
    about = {"machine": machine_description(), "gates": GATES, "steps": STEPS, "rounds": ROUNDS}
    page, _ = write_tables(Path(__file__).with_suffix(""), columns, rows, **about)
    write_atomically(
        page, f"# What a gate costs\n\n{machine_description()}; least of {ROUNDS} rounds.\n\n{page.read_text()}"
    )


if __name__ == "__main__":
    main()
