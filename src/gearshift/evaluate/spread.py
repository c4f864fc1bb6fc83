"""The spread of a metric over items: mean, worst item by name, bootstrap interval, share under a floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gearshift.evaluate.metric import Metric

RESAMPLES = 1000
LEVEL = 95.0  # percent of the interval


@dataclass(frozen=True)
class Spread:
    """Values of one metric over the items of an evaluation.

    Attributes:
        mean: weighted by what the items weigh (tokens, words), as the metric finishes it.
        interval: of the mean, 95 %, by resampling the items.
        worst, worst_name: the worst item.
        below: share of the items that are worse than the floor; None where the metric has none.
        values, names: of each item.
    """

    mean: float
    interval: tuple[float, float]
    worst: float
    worst_name: str
    below: float | None
    values: tuple[float, ...]
    names: tuple[str, ...]


def spread_of(metric: Metric, scores: Sequence[tuple[float, float]], names: Sequence[str]) -> Spread:
    """Sum up what a metric gave for each item, as (value, weight)."""
    raw, weights = np.array(scores, float).T
    counted = raw if metric.most is None else np.minimum(raw, metric.most)
    finish = np.vectorize(metric.finish, otypes=[float])
    drawn = np.random.default_rng(0).integers(len(raw), size=(RESAMPLES, len(raw)))
    means = finish((counted * weights)[drawn].sum(1) / np.maximum(weights[drawn].sum(1), 1e-12))
    edge = (100 - LEVEL) / 2
    low, high = np.percentile(means, [edge, 100 - edge])
    each = finish(raw)
    place = int(each.argmin() if metric.better == "higher" else each.argmax())
    below = None if metric.floor is None else float(np.mean([metric.worse(v, metric.floor) for v in each]))
    mean = float(finish((counted * weights).sum() / max(weights.sum(), 1e-12)))
    return Spread(
        mean, (float(low), float(high)), float(each[place]), names[place], below, tuple(each.tolist()), tuple(names)
    )
