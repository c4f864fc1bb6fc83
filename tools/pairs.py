"""Run every pair of algorithms that the rules allow, on small models, and write down what happened.

Each pair is applied, run, saved and loaded again, and the loaded model must give equal bits. The results go to
docs/pairs.json, which the compatibility page is made from. Takes some minutes, most of them for compiling.

usage: python tools/pairs.py [--only NAME] [--promised] [--new] [--without NAME ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from support.tiny import build  # noqa: E402

import gearshift as gs  # noqa: E402
from gearshift.core.facts import Family  # noqa: E402
from gearshift.core.files import write_atomically  # noqa: E402
from gearshift.core.registry import registry  # noqa: E402
from gearshift.core.rules import conflict  # noqa: E402

RESULTS = ROOT / "docs" / "pairs.json"
MODELS = ("dit", "sd", "llama")


def pairs() -> list[tuple[str, str]]:
    """Names of the pairs that the rules allow."""
    facts = [(c.name, c.facts) for c in registry()]
    return [(a[0], b[0]) for a, b in itertools.combinations(facts, 2) if conflict(a, b) is None]


def run(pair: tuple[str, str]) -> str:
    """'works on MODEL', or what went wrong."""
    for model in MODELS:
        tiny = build(model)
        if gs.problems(tiny.pipe, list(pair)):
            continue
        data = [tiny.call(256)] if model == "llama" else [{**tiny.parts.call(1), "num_inference_steps": 3}]
        trained = any(c.facts.family in (Family.RECOVERER, Family.DISTILLER) for c in registry() if c.name in pair)
        made = gs.optimize(tiny.pipe, list(pair), data=data if trained else None)
        if made is not tiny.pipe:
            continue  # a runtime answers with tokens; tests/runtimes has its own
        tiny.run(steps=8)  # planners find their schedule in a first run
        output = tiny.run(steps=8)
        if not output.isfinite().all():
            return "fails: the output is not finite"
        with tempfile.TemporaryDirectory() as folder:
            gs.save(tiny.pipe, Path(folder) / "pair")
            again = tiny.run(steps=8, pipe=gs.load(Path(folder) / "pair"))
        return f"works on {type(tiny.pipe).__name__}" if torch.equal(output, again) else "fails: loaded, it differs"
    return "not run: no small model here suits both"


def wanted(pair: tuple[str, str], options: argparse.Namespace, results: dict[str, str]) -> bool:
    """Whether the options ask for a pair."""
    promises = json.loads((ROOT / "tests" / "contract" / "promises.json").read_text())
    promised = any(b in promises.get(a, {}).get("compatible_with", []) for a, b in (pair, pair[::-1]))
    done = results.get(" + ".join(pair), "").startswith("works")
    return (
        (options.only is None or options.only in pair)
        and (promised or not options.promised)
        and not (options.new and done)
        and not set(pair) & set(options.without)
    )


def keep(results: dict[str, str]) -> None:
    known = {" + ".join(p) for p in pairs()}
    write_atomically(RESULTS, json.dumps({k: results[k] for k in sorted(results) if k in known}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="only pairs with this algorithm")
    parser.add_argument("--promised", action="store_true", help="only pairs that tests/contract/promises.json names")
    parser.add_argument("--new", action="store_true", help="only pairs that did not work or were not run yet")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="no pairs with these algorithms")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for pair in pairs():
        if wanted(pair, options, results):
            try:
                outcome = run(pair)
            except Exception as error:
                outcome = f"fails: {' '.join(str(error).split())[:200]}"
            results[" + ".join(pair)] = outcome
            keep(results)
            print(" + ".join(pair), outcome, flush=True)
    keep(results)


if __name__ == "__main__":
    main()
