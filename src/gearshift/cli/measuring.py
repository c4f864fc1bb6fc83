"""gearshift evaluate, tune."""

from __future__ import annotations

import argparse
from typing import Any

from gearshift.cli.work import open_model
from gearshift.core.boundary import path_of, refuse_unwritable
from gearshift.core.devices import refuse_absent
from gearshift.core.files import write_atomically
from gearshift.core.recipe import Recipe
from gearshift.evaluate.examples import read_file
from gearshift.persist.readers import readers_of
from gearshift.tune.tuning import RECIPE


def evaluate(arguments: argparse.Namespace) -> None:
    """Open, measure, print; write JSON and a page where asked for."""
    import gearshift as gs

    given = read_file(path_of(arguments.data, "--data"))
    for option in ("json", "report"):
        if getattr(arguments, option):
            refuse_unwritable(path_of(getattr(arguments, option), f"--{option}"))
    recipe = Recipe.of(arguments.recipe)
    refuse_absent(arguments.device)
    model, against = opened(arguments.model, arguments.device), None
    if arguments.against:
        against = opened(arguments.against, arguments.device)
    elif recipe.algorithms:
        against = opened(arguments.model, arguments.device)
    if recipe.algorithms:
        model = gs.optimize(model, recipe, data=given, **readers_of(against or model))
    wanted = {"metrics": arguments.metric, "seed": arguments.seed, "batch_size": arguments.batch_size}
    found = gs.evaluate(model, against, data=given, **wanted)
    print(found)
    if arguments.json:
        write_atomically(arguments.json, found.to_json())
    if arguments.report:
        print(f"Report: {found.report(arguments.report)}")


def tune(arguments: argparse.Namespace) -> None:
    """Open, search, print; the recipe, the table and the report are in the folder."""
    import gearshift as gs

    given = read_file(path_of(arguments.data, "--data"))
    out = path_of(arguments.out, "--out")
    refuse_unwritable(out)
    refuse_absent(arguments.device)
    model = opened(arguments.model, arguments.device)
    wanted = {k: getattr(arguments, k) for k in ("keep", "objective", "budget", "only", "without", "seed")}
    found = gs.tune(model, data=given, out=out, **wanted)
    print(found)
    if found.best is not None:
        print(f"Apply it with: gearshift optimize {arguments.model} --with {out / RECIPE} --out FOLDER")


def opened(where: str, device: str | None) -> Any:
    """A model on a device."""
    model = open_model(where, device)
    return model.to(device) if device else model
