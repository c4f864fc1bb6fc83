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
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from support.hooks import ACTIONS, HOOKS, Walk  # noqa: E402

from gearshift.core.errors import BadRecipe  # noqa: E402

RECIPES = (
    "taylor(start_step=1)",
    "fora(start_step=1)",
    "flux_caching(start_step=1)",
    "pab",
    "adaptive_precision(profile='low_vram')",
    "stable_fast",
    "fora(start_step=1), stable_fast",
)


def walked(name: str, recipe: str, length: int) -> tuple[int, list[str]]:
    """How many orders were walked, and what was off."""
    walk, seen, wrong = Walk(HOOKS[name], recipe), set(), []
    for actions in itertools.product(ACTIONS, repeat=length):
        done = tuple(walk.sensible(actions))
        if done not in seen:
            seen.add(done)
            wrong += walk.go(done)
    return len(seen), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=5, help="actions of an order")
    parser.add_argument("--hook", nargs="*", choices=list(HOOKS), default=list(HOOKS))
    parser.add_argument("--recipe", nargs="*", default=RECIPES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = False
    for name, recipe in itertools.product(args.hook, args.recipe):
        try:
            orders, wrong = walked(name, recipe, args.length)
        except BadRecipe as error:
            print(f"{name}, {recipe}: refused ({error})", flush=True)
            continue
        print(f"{name}, {recipe}: {orders} orders, {len(wrong)} off", *wrong[:5], sep="\n  ", flush=True)
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
