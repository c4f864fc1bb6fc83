"""The search: each algorithm alone first, then combinations that are predicted to be better, then the sampler's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

from gearshift.core.recipe import Recipe
from gearshift.evaluate.examples import Example
from gearshift.tune.candidate import Prediction, Tried, predicted
from gearshift.tune.goal import TuningGoal
from gearshift.tune.space import Setting, Space, go_together
from gearshift.tune.study import Study

FIRST = 2  # examples that every candidate is measured on
SHARE = 6  # a candidate may take this part of the budget
LEAST = 60.0  # seconds that it may take in any case
STOP = 0.7  # of the best gain, that a candidate has to reach on the first examples
TOP = 5  # settings of each family that are combined with others
NEITHER = 12  # suggestions of the sampler that come to nothing, before the search ends


class Search:
    """Tries candidates until the time is over.

    Args:
        run: does a job within a number of seconds, as `Jobs.run`.
        on_progress: told (candidates done, the best gain so far) after each.
    """

    def __init__(
        self, run: Callable[..., dict[str, Any]], space: Space, goal: TuningGoal, study: Study,
        chosen_by: Sequence[Example], held_out: Sequence[Example], on_progress: Callable[[int, float], None],
    ) -> None:  # fmt: skip
        self.run, self.space, self.goal, self.study = run, space, goal, study
        stages = [list(chosen_by[:FIRST]), list(chosen_by[FIRST:])]
        self.given = {"stages": [s for s in stages if s], "held_out": list(held_out), "goal": goal}
        self.on_progress = on_progress
        self.done: dict[str, Tried] = {}
        self.known = study.known()
        self.until = time.monotonic() + goal.seconds

    @property
    def best(self) -> Tried | None:
        """The candidate of the largest gain that keeps all that was asked, held-out examples included."""
        good = [c for c in self.done.values() if not c.why and c.gain > 1.0 and c.held_gain > 1.0]
        return max(good, key=lambda c: c.gain, default=None)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    def search(self) -> None:
        """Try everything in order, as long as there is time."""
        for setting in self.space.defaults():
            if self.over:
                return
            self.tried((setting,))
        idle = 0
        turns = [self._combination, self._variant]
        while not self.over and idle < NEITHER:
            turns.reverse()
            settings = next((found for turn in turns if (found := turn()) is not None), None)
            settings = settings or self.study.ask()
            idle = 0 if self._new(settings) else idle + 1
            if self._new(settings):
                self.tried(settings)

    def tried(self, settings: Sequence[Setting]) -> Tried:
        """Measure a candidate, or take what is known of it."""
        recipe = text_of(settings)
        found = self.known.get(recipe)
        if found is None:
            best = self.best.gain if self.best else 1.0
            limit = max(LEAST, self.goal.seconds / SHARE)
            found = self.run(limit, **self.given, recipe=recipe, at_least=max(STOP * best, 1.0))
            made = Tried(recipe, self.goal, found)
            self.study.keep(recipe, settings, found, made.gain if not made.why else min(made.gain, 1.0) - 2.0)
        self.done[recipe] = Tried(recipe, self.goal, found)
        self.on_progress(len(self.done), self.best.gain if self.best else 1.0)
        return self.done[recipe]

    def _new(self, settings: Sequence[Setting]) -> bool:
        return bool(settings) and go_together(settings) and text_of(settings) not in self.done

    def _variant(self) -> tuple[Setting, ...] | None:
        """Another setting of an algorithm that is good alone, the best first and in turns."""
        tried = {s.algorithm.name: 0 for s in self.space.settings}
        for setting in self.space.settings:
            tried[setting.algorithm.name] += setting.text in self.done
        gains = {s.algorithm.name: self._alone(s).gain for s in self.space.defaults() if s.text in self.done}
        able = [
            name for name in sorted(gains, key=lambda n: gains[n] / tried[n] ** 0.5, reverse=True) if gains[name] > 1.0
        ]
        rest = ((s,) for name in able for s in self.space.of(name) if s.text not in self.done)
        return next(rest, None)

    def _combination(self) -> tuple[Setting, ...] | None:
        """The combination that is predicted to be the best, if it is predicted to be better than the best one."""
        limit = self.best.gain if self.best else 1.0
        able = sorted((p for p in self._predictions(limit) if p.keeps), key=lambda p: -p.gain)
        return next((p.settings for p in able if text_of(p.settings) not in self.done), None)

    def _predictions(self, least: float) -> Iterator[Prediction]:
        """Predictions of combinations whose parts' gains come to more than this."""
        gains = {text: one.gain for text, one in self.done.items()}
        singles = {s.text: self._alone(s) for s in self.space.settings if s.text in self.done}
        families: list[list[Setting]] = []
        for found in self.space.families().values():
            known = sorted((s for s in found if s.text in singles), key=lambda s: -singles[s.text].gain)
            families.append([s for s in known if singles[s.text].gain > 0.9][:TOP])
        for size in (2, 3):
            for chosen in combinations([f for f in families if f], size):
                for settings in product(*chosen):
                    gain = math.prod(gains[s.text] for s in settings)
                    made = predicted(settings, singles, self.goal) if gain > least and go_together(settings) else None
                    if made is not None:
                        yield made

    def _alone(self, setting: Setting) -> Tried:
        return self.done[setting.text]


def text_of(settings: Sequence[Setting]) -> str:
    """The recipe of some settings, as text."""
    return str(Recipe().joined([s.algorithm for s in settings])) if go_together(settings) else ""
