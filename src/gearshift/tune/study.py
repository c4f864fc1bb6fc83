"""What was tried, in an Optuna study: kept in SQLite, so that an ended search goes on; and a sampler of more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gearshift.core.extras import need
from gearshift.tune.space import Setting, Space

NOTHING = "-"
RECIPE, FOUND = "recipe", "found"  # names under which a trial keeps these


class Study:
    """Trials of one search.

    Args:
        path: of the database; None keeps it in memory.
        key: what tells this search from others in it.
    """

    def __init__(self, path: Path | None, key: str, space: Space, seed: int) -> None:
        self.optuna = need("optuna", "tune", "gs.tune")
        self.families = {f.value: {s.text: s for s in found} for f, found in space.families().items()}
        storage = None if path is None else f"sqlite:///{path}"
        with self._quiet():
            sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
            self.study = self.optuna.create_study(
                storage=storage, study_name=key, load_if_exists=True, direction="maximize", sampler=sampler
            )

    def known(self) -> dict[str, dict[str, Any]]:
        """What was found of each recipe, in this process or one before it."""
        trials = [t for t in self.study.trials if RECIPE in t.user_attrs]
        return {t.user_attrs[RECIPE]: json.loads(t.user_attrs[FOUND]) for t in trials}

    def keep(self, recipe: str, settings: Sequence[Setting], found: Mapping[str, Any], score: float) -> None:
        """Take down what was found of a recipe; `score` says how good it is, more is better."""
        params = dict.fromkeys(self.families, NOTHING) | {s.family.value: s.text for s in settings}
        spaces = self._distributions()
        known = all(params[name] in space.choices for name, space in spaces.items())
        trial = self.optuna.trial.create_trial(
            params=params if known else {}, distributions=spaces if known else {}, value=score,
            user_attrs={RECIPE: recipe, FOUND: json.dumps(found)},
        )  # fmt: skip
        self.study.add_trial(trial)

    def ask(self) -> tuple[Setting, ...]:
        """A combination that the sampler would try next."""
        with self._quiet():
            trial = self.study.ask(self._distributions())
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)  # what comes of it is kept by `keep`
        return tuple(self.families[name][text] for name, text in trial.params.items() if text != NOTHING)

    def _distributions(self) -> dict[str, Any]:
        make = self.optuna.distributions.CategoricalDistribution
        return {name: make([NOTHING, *found]) for name, found in self.families.items()}

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before = self.optuna.logging.get_verbosity()
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        try:
            yield
        finally:
            self.optuna.logging.set_verbosity(before)
