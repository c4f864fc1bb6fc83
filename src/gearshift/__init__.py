"""gearshift makes diffusion pipelines, language models and Whisper faster, smaller and cheaper.

>>> import gearshift as gs
>>> pipe = gs.optimize(pipe, ["qkv_diffusers", "taylor"])  # doctest: +SKIP
"""

# These folders go first, so that importing them later does not take the verbs' names.
import gearshift.algorithms
import gearshift.evaluate
import gearshift.tune  # noqa: F401
from gearshift.api import (
    __getattr__,  # noqa: F401  Plan, sampling and the runtimes, when somebody asks for them
    algorithms,
    disabled,
    explain,
    export,
    follow,
    load,
    optimize,
    plan,
    problems,
    read_checkpoint,
    restore,
    save,
    set_verbosity,
    status,
    warm_up,
)
from gearshift.core.algorithm import Algorithm
from gearshift.core.recipe import Recipe
from gearshift.measuring import evaluate, tune

__version__ = "0.1.0"
__all__ = [
    "Algorithm",
    "Plan",
    "Recipe",
    "algorithms",
    "disabled",
    "evaluate",
    "explain",
    "export",
    "follow",
    "load",
    "optimize",
    "plan",
    "problems",
    "read_checkpoint",
    "restore",
    "sampling",
    "save",
    "set_verbosity",
    "status",
    "tune",
    "warm_up",
]
