"""Walk through every order of putting other libraries' hooks and ours on tiny pipelines and taking them off.

After each action the output has to be that of what is on. Takes an hour for all of them on two cores; exits with 1 if
anything was off.

usage: python tools/hook_orders.py [--length 5] [--hook NAME ...] [--recipe RECIPE ...]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from support.hooks import ACTIONS, HOOKS, Walk  # noqa: E402

from gearshift.core.errors import BadRecipe  # noqa: E402

AT_ONCE = 60  # orders that one process walks
RECIPES = (
    "taylor(start_step=1)",
    "fora(start_step=1)",
    "flux_caching(start_step=1)",
    "pab",
    "adaptive_precision(profile='low_vram')",
    "stable_fast",
    "fora(start_step=1), stable_fast",
)


def orders(walk: Walk, length: int) -> list[tuple[str, ...]]:
    """Every order of so many actions that makes sense, once."""
    return list(dict.fromkeys(tuple(walk.sensible(a)) for a in itertools.product(ACTIONS, repeat=length)))


def walked(name: str, recipe: str, length: int, first: int) -> tuple[int, list[str]] | str:
    """How many orders there are, and what was off in those from the first on; or why the recipe is refused.

    Runs in a process of its own, as torch.jit never gives back the memory of a traced graph.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        walk = Walk(HOOKS[name], recipe)
        found = orders(walk, length)
        return len(found), [off for order in found[first : first + AT_ONCE] for off in walk.go(order)]
    except BadRecipe as error:
        return str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=5, help="actions of an order")
    parser.add_argument("--hook", nargs="*", choices=list(HOOKS), default=list(HOOKS))
    parser.add_argument("--recipe", nargs="*", default=RECIPES)
    args = parser.parse_args()
    failed = False
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for name, recipe in itertools.product(args.hook, args.recipe):
            wrong, first, total = [], 0, 1
            while first < total:
                answer = processes.submit(walked, name, recipe, args.length, first).result()
                if isinstance(answer, str):
                    print(f"{name}, {recipe}: refused ({answer})", flush=True)
                    break
                total, first, wrong = answer[0], first + AT_ONCE, wrong + answer[1]
            else:
                print(f"{name}, {recipe}: {total} orders, {len(wrong)} off", *wrong[:5], sep="\n  ", flush=True)
            failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
