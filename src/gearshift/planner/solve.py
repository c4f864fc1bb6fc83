"""The schedule with the least error for a number of computed steps: a dynamic programme, then a local search."""

from __future__ import annotations

import random

import numpy as np

from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Predictor


def solve(surrogate: Surrogate, count: int, predictor: Predictor, moves: int = 1500, seed: int = 0) -> list[int]:
    """Positions of `count` steps to compute, the first among them.

    The dynamic programme takes the errors of single filled-in steps as independent; the search that follows lets them
    add up and cancel.
    """
    best = programme(surrogate, count, lines=predictor.depth > 1)
    return search(surrogate, best, predictor, moves, seed)


def programme(surrogate: Surrogate, count: int, lines: bool) -> list[int]:
    """Exact minimum of the summed squared errors, each step filled in from the last two computed ones (or the last)."""
    steps = surrogate.steps
    count = min(max(count, 2 if lines else 1), steps)
    costs = _costs(surrogate, lines)  # [before, last, next]: all steps between last and next filled in
    total = np.full((steps, steps), np.inf)  # over (before, last)
    total[0, 0] = 0.0
    came = np.zeros((count, steps, steps), dtype=int)
    for n in range(1, count):
        reached = total[:, :, None] + costs[:, :, :steps]
        came[n] = reached.argmin(0)
        total = reached.min(0)
    final = total + costs[:, :, steps]
    before, last = np.unravel_index(final.argmin(), final.shape)
    found = [int(last)]
    for n in range(count - 1, 0, -1):
        found.append(int(before))
        before, last = came[n][before, last], before
    return sorted(set(found))


def search(surrogate: Surrogate, start: list[int], predictor: Predictor, moves: int, seed: int) -> list[int]:
    """Move single computed steps while that lessens the error as the surrogate sees it."""
    chance = random.Random(seed)
    best, least = list(start), surrogate.error(start, predictor)
    for _ in range(moves):
        trial = _moved(best, surrogate.steps, chance)
        error = surrogate.error(trial, predictor)
        if error < least:
            best, least = trial, error
    return best


def _moved(schedule: list[int], steps: int, chance: random.Random) -> list[int]:
    """Another schedule: one or two of its steps, never the first, put a little elsewhere or anywhere."""
    chosen = set(schedule)
    for _ in range(chance.choice((1, 1, 2))):
        movable = sorted(chosen - {0})
        if not movable:
            break
        p = chance.choice(movable)
        near = [q for q in range(max(1, p - 3), min(steps, p + 4)) if q not in chosen]
        free = near if near and chance.random() < 0.8 else [q for q in range(1, steps) if q not in chosen]
        if free:
            chosen = (chosen - {p}) | {chance.choice(free)}
    return sorted(chosen)


def _costs(surrogate: Surrogate, lines: bool) -> np.ndarray:
    """[before, last, next]: squared error in the final sample of the steps between last and next."""
    steps, x = surrogate.steps, np.array(surrogate.x)
    gram = surrogate.outputs @ surrogate.outputs.T
    k, i, p = np.ogrid[:steps, :steps, :steps]  # before, last, and the step that is filled in
    slope = np.zeros((steps,) * 3)
    if lines:
        slope = np.where(k < i, (x[p] - x[i]) / np.where(k < i, x[i] - x[k], 1.0), 0.0)
    near, far = 1 + slope, -slope
    squared = (
        gram[p, p] + near**2 * gram[i, i] + far**2 * gram[k, k]
        - 2 * near * gram[p, i] - 2 * far * gram[p, k] + 2 * near * far * gram[i, k]
    )  # fmt: skip
    single = np.maximum(squared, 0) * surrogate.sensitivity()[p] ** 2
    sums = np.concatenate([np.zeros((steps, steps, 1)), np.cumsum(np.where(p > i, single, 0.0), axis=2)], axis=2)
    allowed = (np.arange(steps + 1)[None, None, :] > i) & ((k < i) | ((k == 0) & (i == 0)))
    return np.where(allowed, sums, np.inf)
