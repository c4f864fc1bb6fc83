"""gearshift evaluate."""

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


def opened(where: str, device: str | None) -> Any:
    """A model on a device."""
    model = open_model(where, device)
    return model.to(device) if device else model
