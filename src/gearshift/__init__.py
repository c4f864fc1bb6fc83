"""gearshift makes diffusion pipelines, language models and Whisper faster, smaller and cheaper.

>>> import gearshift as gs
>>> pipe = gs.optimize(pipe, ["qkv_diffusers", "taylor"])  # doctest: +SKIP
"""

import gearshift.algorithms  # noqa: F401  first, so that importing it later does not take the verb's name
from gearshift.api import (
    __getattr__,  # noqa: F401  Plan, sampling and the runtimes, when somebody asks for them
    algorithms,
    disabled,
    explain,
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

__version__ = "0.1.0"
__all__ = [
    "Algorithm",
    "Plan",
    "Recipe",
    "algorithms",
    "disabled",
    "explain",
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
    "warm_up",
]
