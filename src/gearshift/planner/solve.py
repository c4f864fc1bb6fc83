"""The schedule with the least error for a number of computed steps: a dynamic programme, then a local search."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from gearshift.planner.surrogate import Surrogate
from gearshift.steps.predict import Predictor, are_apart


def sure(costs: Any) -> Any:
    """Costs of which none that is not a number can be the least."""
    return np.where(np.isnan(costs), np.inf, costs)


def solve(surrogate: Surrogate, count: int, predictor: Predictor, moves: int = 1500, seed: int = 0) -> list[int]:
    """Positions of `count` steps to compute, the first among them.

    The dynamic programme takes the errors of single filled-in steps as independent; the search that follows lets them
    add up and cancel.
    """
    best = programme(output_costs(surrogate, lines=predictor.depth > 1), count)
    return search(surrogate, best, predictor, moves, seed)


def programme(costs: np.ndarray, count: int) -> list[int]:
    """Exact minimum of the summed costs over all schedules of `count` steps.

    Args:
        costs: [before, last, next] of filling in all steps between `last` and `next` from the outputs at `before` and
            `last`; infinite where that is no schedule.
    """
    costs = sure(costs)
    steps = costs.shape[0]
    count = min(max(count, 2), steps)
    total = np.full((steps, steps), np.inf)  # over (before, last)
    total[0, 0] = 0.0
    came = np.zeros((count, steps, steps), dtype=np.int16)
    for n in range(1, count):
        reached = total[:, :, None] + costs[:, :, :steps]
        came[n] = reached.argmin(0)
        total = np.take_along_axis(reached, came[n][None].astype(int), 0)[0]
    final = total + costs[:, :, steps]
    before, last = (int(v) for v in np.unravel_index(final.argmin(), final.shape))
    found = [last]
    for n in range(count - 1, 0, -1):
        found.append(before)
        before, last = int(came[n][before, last]), before
    return sorted(set(found))


def search(surrogate: Surrogate, start: list[int], predictor: Predictor, moves: int, seed: int) -> list[int]:
    """Move single computed steps while that lessens the error as the surrogate sees it."""
    chance = random.Random(seed)
    best, least = list(start), float(sure(surrogate.error(start, predictor)))
    for _ in range(moves):
        trial = neighbor(best, surrogate.steps, chance)
        error = surrogate.error(trial, predictor)
        if error < least:
            best, least = trial, error
    return best


def neighbor(schedule: list[int], steps: int, chance: random.Random) -> list[int]:
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


def output_costs(surrogate: Surrogate, lines: bool) -> np.ndarray:
    """Costs of extrapolating along a line, or of repeating: squared error in the final sample, step by step."""
    steps, x = surrogate.steps, np.array(surrogate.x)
    gram = surrogate.outputs @ surrogate.outputs.T
    k, i, p = np.ogrid[:steps, :steps, :steps]  # before, last, and the step that is filled in
    slope = np.zeros((steps,) * 3)
    if lines:
        two = (k < i) & are_apart(x[i], x[k])
        slope = np.where(two, (x[p] - x[i]) / np.where(two, x[i] - x[k], 1.0), 0.0)
    near, far = 1 + slope, -slope
    squared = (
        gram[p, p] + near**2 * gram[i, i] + far**2 * gram[k, k]
        - 2 * near * gram[p, i] - 2 * far * gram[p, k] + 2 * near * far * gram[i, k]
    )  # fmt: skip
    single = np.maximum(squared, 0) * surrogate.sensitivity()[p] ** 2
    sums = np.concatenate([np.zeros((steps, steps, 1)), np.cumsum(np.where(p > i, single, 0.0), axis=2)], axis=2)
    return np.where(_possible(steps), sums, np.inf)


def span_costs(surrogate: Surrogate) -> np.ndarray:
    """Costs with fitted weights: what of the next computed step's sample lies outside of all that could be mixed.

    That is the sample and the output at the last computed step and the output at the one before.
    """
    steps = surrogate.steps
    outputs, samples = surrogate.outputs, surrogate.samples
    costs = np.full((steps, steps, steps + 1), np.inf)
    amplified = surrogate.amplification() ** 2
    for last in range(steps):
        pair, _ = np.linalg.qr(np.stack([samples[last], outputs[last]], axis=1))
        left, before = (v - (v @ pair) @ pair.T for v in (samples, outputs[: last or 1]))
        before = before / np.maximum(np.linalg.norm(before, axis=1, keepdims=True), 1e-30)
        outside = (left**2).sum(1)[None] - (before @ left.T) ** 2
        costs[: last or 1, last] = np.maximum(outside, 0.0) * amplified
    following = np.arange(steps)
    costs[:, following, following + 1] = 0.0  # nothing lies between
    return np.where(_possible(steps), costs, np.inf)


def _possible(steps: int) -> np.ndarray:
    """[before, last, next] that can follow one another; at the start the first step is its own `before`."""
    k, i, p = np.ogrid[:steps, :steps, : steps + 1]
    return (p > i) & ((k < i) | ((k == 0) & (i == 0)))
