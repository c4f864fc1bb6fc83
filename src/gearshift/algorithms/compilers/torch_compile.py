"""torch.compile, behind the gates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar, NamedTuple

from gearshift.algorithms.common.compile_stats import Tally, name_of
from gearshift.algorithms.common.tracing import STATES, prepare, traced_gates
from gearshift.algorithms.compilers import compile_behind, compiler_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import GearshiftError
from gearshift.core.extras import installed
from gearshift.core.facts import Kind
from gearshift.core.param import param
from gearshift.core.plain import text

LENGTHS = (100, 200, 400, 512, 800, 1600, 3200, 6400, 12800, 25600, 51200, 102400)
BACKENDS = ("inductor", "cudagraphs", "onnxrt", "tvm", "openvino", "openxla")
CONVERTED = {"openvino": ("openvino",), "onnxrt": ("onnxruntime", "onnx", "onnxscript")}  # and what these need
NEEDED = {**CONVERTED, "tvm": ("tvm",), "openxla": ("torch_xla",)}


class TorchCompile(Algorithm):
    """Compile the model with torch.compile; what cachers decide stays outside of what is compiled.

    A denoiser is compiled whole. Where a cacher decides inside of it, there is a graph of the steps that are computed
    and one of those that are filled in, or several of them where kinds of attention go their own ways. With
    target='module_list' its repeated blocks are compiled one by one. The first step of each kind compiles, which takes
    from seconds to minutes.
    """

    facts = compiler_facts()
    mode: str = param(
        "default",
        choices=("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        help="compilation mode",
    )
    backend: str = param("inductor", choices=BACKENDS, help="compilation backend")
    fullgraph: bool = param(True, choices=(True, False), help="one graph or an error; False: compilable subgraphs")
    dynamic: bool | None = param(None, choices=(None, True, False), help="dynamic shapes; None: found out by use")
    max_kv_cache_size: int = param(
        400, choices=LENGTHS, help="language models: most new tokens to generate with a cache of fixed size"
    )
    seqlen_manual_cuda_graph: int = param(
        100, choices=LENGTHS, help="language models: prompts up to a multiple of so many tokens share a captured graph"
    )
    make_portable: bool = param(False, choices=(True, False), help="keep compiled artifacts with the saved model")
    target: str = param(
        "model", choices=("model", "module_list"), help="compile the model whole, or its repeated blocks one by one"
    )

    def check_together(self) -> list[str]:
        if self.make_portable and (self.backend != "inductor" or self.dynamic or not self.fullgraph):
            return ["torch_compile: make_portable needs backend 'inductor', fullgraph and no dynamic shapes."]
        return []

    def check_model(self, model: Any, context: Context) -> list[str]:
        import torch

        from gearshift.models.describe import describe

        found = []
        if self.seqlen_manual_cuda_graph >= self.max_kv_cache_size:
            found.append("torch_compile: seqlen_manual_cuda_graph must be below max_kv_cache_size.")
        lacking = [p for p in NEEDED.get(self.backend, ()) if not installed(p)]
        if lacking:
            words = f"the package {lacking[0]}" if len(lacking) == 1 else f"the packages {', '.join(lacking)}"
            found.append(f"torch_compile: backend {self.backend!r} needs {words}; 'inductor' needs none.")
        elif self.backend in CONVERTED:
            if describe(model).device != "cpu":
                found.append(f"torch_compile: backend {self.backend!r} runs on the CPU here; the model is elsewhere.")
        elif self.backend not in torch._dynamo.list_backends(exclude_tags=None):
            found.append(f"torch_compile: torch {torch.__version__} has no backend {self.backend!r}; take 'inductor'.")
        if (self.make_portable or self.backend in CONVERTED) and hasattr(model, "generate"):
            what = "make_portable" if self.make_portable else f"backend {self.backend!r}"
            found.append(
                f"torch_compile: {what} is for modules that take nothing but tensors; {type(model).__name__} keeps a "
                "cache between its calls. It compiles with 'inductor' as it is."
            )
        if self.backend == "inductor" and not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")):
            found.append("torch_compile: inductor needs a C++ compiler, and none was found (install g++ or set CXX).")
        return found

    saved_fields: ClassVar = {"machine": text(most=1000)}

    def apply(self, model: Any, context: Context) -> None:
        if self.backend in CONVERTED:
            self._convert(model, context)
            return
        options = {k: getattr(self, k) for k in ("mode", "backend", "fullgraph", "dynamic")}
        from gearshift.algorithms.common.static_cache import StaticGeneration
        from gearshift.models.describe import describe

        if describe(model).kind is Kind.LANGUAGE and not model.config.is_encoder_decoder:
            notes = context.applied.notes  # type: ignore[union-attr]
            context.change(StaticGeneration(model, self.max_kv_cache_size, self.seqlen_manual_cuda_graph, notes))
        blocks, tally = self.target == "module_list", Tally.of(context)
        if not self.make_portable:
            compile_behind(model, context, lambda module: Compiled(module, options, tally), blocks)
            return
        from gearshift.algorithms.common.portable import Portable, compile_target

        numbers, tuned = count(), "max-autotune" in self.mode
        compile_behind(model, context, lambda module: Portable(module, next(numbers), context, tuned), blocks)
        context.save(machine=compile_target())

    def _convert(self, model: Any, context: Context) -> None:
        """Another runtime behind the gates, for each shape; it has no modes, and no dynamic shapes."""
        from gearshift.algorithms.common.export_backends import Converted

        blocks, tally = self.target == "module_list", Tally.of(context)
        compile_behind(model, context, lambda module: Converted(module, self.backend, tally), blocks)
        if self.mode != "default" or self.dynamic is not None:
            context.warn(f"{self.backend} converts the model anew for each shape; it has no modes or dynamic shapes.")


class Held(NamedTuple):
    """A compiled forward.

    Attributes:
        call: what torch.compile gave.
        form: of the module when it was given to torch.compile (`fingerprint.Mark`).
    """

    call: Callable[..., Any]
    form: str


class Compiled:
    """A module's forward, compiled at its first call in each gear; copies and pickles compile anew.

    torch looks after the weights and most attributes. It does not see hooks and layers that came since, so a module of
    another structure is compiled on its own. Outputs of CUDA graphs are overwritten by the next call, so they are
    copied out.
    """

    word = "compiled"

    def __init__(self, module: Any, options: dict[str, Any], tally: Tally) -> None:
        from gearshift.steps.fingerprint import Fingerprint

        self.module, self.options, self.tally = module, options, tally
        self.fingerprint = Fingerprint(module, weights=False)
        self._calls: dict[Any, Held] = {}
        self._prepared: dict[Any, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gearshift.steps.run import current

        state, run = self.fingerprint.now(), current()
        if state.hooks:
            self.tally.tell_hooks(self.module, state.hooks, self.word)
            return type(self.module).forward(self.module, *args, **kwargs)
        key = (None if run is None else run.gear, state.mark.structure)
        held = self._calls.get(key)
        new = held is None
        if held is None:
            held = self._add(key, state)
        if self._prepared.get(key) != state.mark:
            prepare(self.module)
            self._prepared[key] = state.mark
        output = self._output(held, new, key, state, args, kwargs)
        if self.options["mode"] in ("reduce-overhead", "max-autotune") or self.options["backend"] == "cudagraphs":
            from gearshift.steps.tree import tensors, with_tensors

            output = with_tensors(output, [t.clone() for t in tensors(output)])
        return output

    def _add(self, key: tuple[Any, str], state: Any) -> Held:
        """Have the module compiled for a gear as it is now; a structure that it had long ago is dropped."""
        import torch

        if any(structure != key[1] for _, structure in self._calls):
            self.tally.tell_changed(self.module, self.fingerprint.changed, self.word)
        self.fingerprint.watch_weights(any(traced_gates(self.module)))  # torch does not know what those make of them
        own = self.tally.function(self.module, *key)
        structures = list(dict.fromkeys([key[1], *(structure for _, structure in reversed(self._calls))]))[:STATES]
        kept = {k: held for k, held in self._calls.items() if k[1] in structures}
        held = Held(torch.compile(own.__get__(self.module), **self.options), state.mark.form)
        self._calls = {**kept, key: held}
        return held

    def _output(self, held: Held, new: bool, key: tuple[Any, str], state: Any, args: tuple, kwargs: dict) -> Any:
        """The compiled call's output; attributes that were set too often for torch to keep up are compiled apart."""
        from torch._dynamo.exc import FailOnRecompileLimitHit

        try:
            return self._counted(held.call, new, args, kwargs)
        except FailOnRecompileLimitHit:
            if held.form == state.mark.form:
                raise GearshiftError(
                    f"{name_of(self.module)} was compiled for as many shapes as torch allows "
                    "(torch._dynamo.config.recompile_limit); take dynamic=True, or fewer shapes."
                ) from None
        self.tally.forget(self.module, *key)
        return self._counted(self._add(key, state).call, False, args, kwargs)

    def _counted(self, call: Callable[..., Any], new: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The compiled call's output; graphs that it made are counted."""
        from torch._dynamo import exc, utils

        before = utils.counters["stats"]["unique_graphs"]
        try:
            return call(*args, **kwargs)
        except (exc.Unsupported, exc.UserError) as error:
            explanation = " ".join(str(error).partition("Hint:")[0].split())
            raise GearshiftError(
                f"{name_of(self.module)} cannot be compiled into one graph ({explanation}); take fullgraph=False, or "
                "target='module_list', which compiles its blocks."
            ) from error
        finally:
            graphs = utils.counters["stats"]["unique_graphs"] - before
            if graphs:
                self.tally.count(graphs, again=not new)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_calls": {}, "_prepared": {}}
