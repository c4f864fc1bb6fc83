"""Mutate files and arguments at random: each must be read, or refused in one sentence that names it.

Prints how many were read and refused, and every raw error with the number of the case that gave it; `--only` runs one
case again. Exits with 1 if there was any.

usage: python tools/fuzz.py [--kind KIND] [--seed N] [--seconds N] [--cases N] [--only N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fuzz import KINDS, run

MEMORY = 12 << 30  # bytes of address space


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, help="one kind (all)")
    parser.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="time for each kind (%(default)s)")
    parser.add_argument("--cases", type=int, default=10**9, help="at most this many cases of each kind")
    parser.add_argument("--only", type=int, help="run this case alone")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    failed = False
    for kind in [given.kind] if given.kind else KINDS:
        numbers = iter([given.only] if given.only is not None else range(given.cases))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # progress of other libraries
            outcome = run(kind, given.seed, given.seconds, numbers)
        print(kind, dict(outcome.counts), flush=True)
        for number, error in outcome.raw.values():
            print(f"  --kind {kind} --seed {given.seed} --only {number}: {error}", flush=True)
        failed = failed or bool(outcome.raw)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
