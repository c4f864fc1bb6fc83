"""Compiled forwards that are kept with a saved model: packages of AOTInductor, machine code without the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gearshift.algorithms.common.compile_stats import Tally
from gearshift.algorithms.common.tracing import Key, Traced
from gearshift.core.context import Context
from gearshift.core.folders import scratch

OPTIONS = {"aot_inductor.package_constants_in_so": False}  # the weights are the model's own
TUNED = {"max_autotune": True}
INSTRUCTIONS = ("vnni", "avx512_bf16", "amx_tile")  # beyond what torch calls the capability, that compilers use


class Portable(Traced):
    """A module's forward compiled ahead of time, for each shape of its arguments and each gear.

    Compiling takes as long as torch.compile does; a package that was saved is there in well under a second.

    Args:
        number: of the module among those that are compiled, which its packages are named by.
        context: packages of a saved folder are in its `files`, and new ones are kept there.
    """

    word = "compiled ahead of time"

    def __init__(self, module: Any, number: int, context: Context, tuned: bool) -> None:
        super().__init__(module, Tally.of(context))
        self.number, self.tuned = number, tuned
        self.files = self.tally.applied.files
        if context.saved.get("machine", compile_target()) != compile_target():
            self.tally.tell(
                f"The packages that were saved are for {context.saved['machine']}, so they are made anew here."
            )
            self.files.clear()
        self.compiled = 0

    def form(self, holder: Any, example: tuple, key: Key) -> Callable[..., Any]:
        digest = hashlib.sha256(f"{key.call} {key.mark.form}".encode()).hexdigest()[:16]
        name = f"{self.number}-{digest}.pt2"
        if name not in self.files:
            self.files[name] = self._package(holder, example, name)
        return _loaded(self.files[name], holder)

    def _package(self, holder: Any, example: tuple, name: str) -> Path:
        import torch

        path = scratch() / name
        exported = torch.export.export(holder, example, strict=False)
        options = {**OPTIONS, **TUNED} if self.tuned else OPTIONS
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=options)
        self.compiled += 1
        return path


def compile_target() -> str:
    """What compiled code depends on: torch, the processor's instructions, the GPU."""
    import platform

    import torch

    from gearshift.kernels.dispatch import VERSION

    found = [f"torch {torch.__version__}", f"operators {VERSION}", platform.system(), platform.machine()]
    found.append(torch.backends.cpu.get_cpu_capability())
    for name in INSTRUCTIONS:
        supported = getattr(torch.cpu, f"_is_{name}_supported", None)
        found += [name] * bool(supported and supported())
    if torch.cuda.is_available():
        found.append(torch.cuda.get_device_name())
    return ", ".join(found)


def _loaded(path: Path, holder: Any) -> Any:
    """A package with the weights of the module, which it shares."""
    import torch

    with _without_probing():
        runner = torch._inductor.aoti_load_package(str(path))
    state = {**dict(holder.named_parameters()), **dict(holder.named_buffers())}
    constants = {name: state[name].detach() for name in runner.get_constant_fqns()}
    runner.load_constants(constants, check_full_update=True, user_managed=True)
    return runner


@contextmanager
def _without_probing() -> Iterator[None]:
    """Without torch's look at the CPU while it loads a package.

    It compiles a program for each of the CPU's instruction sets, seconds where its caches are empty, and does no more
    than log a difference; `compile_target` has told by then.
    """
    from torch._inductor import codecache

    asked = getattr(codecache, "get_device_information", None)
    if asked is None:  # a torch that does not look
        yield
        return
    codecache.get_device_information = lambda device_type: {}
    try:
        yield
    finally:
        codecache.get_device_information = asked
