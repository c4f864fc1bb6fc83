"""Kill a process again and again while it saves a model over and over, and count what was lost.

After each kill the folder must load, hold one of the two models that were being saved, and still have the user's own
file in it; after the next save nothing else may lie beside it. Prints the counts; exits with 1 if anything was lost.

usage: python tools/kill_saves.py [--kills 200] [--seed 0] [--in-two-steps]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from support.tiny import build  # noqa: E402

import gearshift as gs  # noqa: E402
from gearshift.core import scratch  # noqa: E402

MINE = "README.md"


def killed_while_saving(models: list[Any], target: Path, seconds: float) -> None:
    """A child saves the models in turn until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                for model in models:
                    gs.save(model, target)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def found(target: Path) -> str:
    """What a user sees after the kill."""
    try:
        orders = [a["params"]["order"] for a in gs.status(gs.load(target)).applied]
    except Exception as error:
        return f"lost: {type(error).__name__}: {error}"
    if orders not in ([1], [2]):
        return f"lost: another recipe, {orders}"
    return "whole" if (target / MINE).read_text() == "mine" else "lost: the user's file"


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kills", type=int, default=200)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--in-two-steps", action="store_true", help="as on systems without an exchange of names")
    given = asked.parse_args()
    if given.in_two_steps:
        scratch._exchanged = lambda one, other: False
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models = [gs.optimize(build("wan").pipe, f"taylor(order={order})") for order in (1, 2)]
    draw, counts = random.Random(given.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        gs.save(models[0], target)
        (target / MINE).write_text("mine")
        start = time.perf_counter()
        gs.save(models[1], target)
        took = time.perf_counter() - start
        for _ in range(given.kills):
            killed_while_saving(models, target, draw.uniform(0, 3 * took))
            counts[found(target)] += 1
            counts["scratch entries left by kills"] += len(os.listdir(folder)) - 1
            gs.save(models[0], target)
            counts["left after the next save"] += len(os.listdir(folder)) - 1
    print(f"{given.kills} kills, a save takes {took:.2f} s")
    for what, number in counts.items():
        print(f"{what}: {number}")
    return int(counts["whole"] != given.kills or counts["left after the next save"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
