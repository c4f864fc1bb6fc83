"""Which folder may import which; no two modules need each other; what can be imported at the top is."""

import os
import subprocess
import sys

from support import sources
from support.sources import MODULES, TREES, none, room, short

LOW = {"core", "quant", "measure", "kernels", "layers", "models"}
STEPS = {"steps", "precision"}
ENGINES = {"planner", "runtimes", "training", "data", "persist"}
MAY_IMPORT = {
    "core": set(),
    "quant": {"core"},
    "measure": {"core"},
    "kernels": {"core", "quant", "measure"},
    "layers": {"core", "quant", "measure", "kernels"},
    "models": LOW,
    "steps": LOW,
    "precision": LOW | STEPS,
    "planner": LOW | STEPS | {"data", "applying"},
    "runtimes": LOW | {"persist"},
    "training": LOW | {"steps", "data"},
    "data": LOW | {"steps", "training"},
    "algorithms": LOW | STEPS | ENGINES,
    "persist": LOW,
    "evaluate": LOW | {"steps", "runtimes", "persist"},
    "tune": LOW | STEPS | ENGINES | {"applying", "evaluate", "algorithms"},
    "zoo": {"core", "persist", "models"},
    "applying": LOW,
    "api": LOW | STEPS | ENGINES | {"algorithms", "applying", "evaluate"},
    "measuring": {"core", "api", "evaluate", "tune"},
    "cli": {"core", "persist", "evaluate", "zoo", "tune", "runtimes", "gearshift"},
    "__main__": {"cli"},
}
ALSO = {("core.registry", "algorithms")}  # it walks that folder


def test_folders_import_only_what_lies_below_them():
    wrong = []
    for path in TREES:
        if (here := room(path)) == "__init__":
            continue  # the package itself: names only
        for target in sources.ALL[sources.module(path)]:
            there = target.split(".")[1] if "." in target else "gearshift"
            if there not in MAY_IMPORT.get(here, ()) | {here} and (short(sources.module(path)), there) not in ALSO:
                wrong.append(f"{short(sources.module(path))} imports {short(target)}")
    none(wrong)


def test_every_folder_has_its_place_among_the_others():
    none({room(path) for path in TREES} - {"__init__"} - MAY_IMPORT.keys())


def test_no_modules_import_each_other():
    none(sources.circles(sources.TOP))


def test_no_import_inside_of_a_function_hides_a_circle():
    none(sources.circles(sources.ALL))


def test_what_imports_no_torch_is_imported_at_the_top():
    none(
        f"{short(name)} imports {short(target)} inside of a function"
        for name, path in MODULES.items()
        for target in sorted(sources.inside_functions(path))
        if target.startswith("gearshift.core.") and not sources.imports_torch(target)
    )


def test_algorithms_import_nothing_heavy_at_the_top():
    heavy = {path: {t.split(".")[0] for t in sources.at_the_top(path)} & sources.HEAVY for path in TREES}
    none(
        f"{short(sources.module(p))} imports {found}" for p, found in heavy.items() if found and room(p) == "algorithms"
    )


def test_importing_and_listing_are_quick_and_import_no_torch():
    code = "import sys, gearshift; gearshift.algorithms(); assert not {'torch', 'diffusers'} & set(sys.modules)"
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 1.5  # of CPU time; 0.3 where it is quiet: this only catches a heavy import that slipped in
