"""Traced, frozen forwards, made at the first call of each shape in each state of a module, checked against its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gearshift.algorithms.common.compile_stats import Tally, listed, name_of
from gearshift.core.errors import told
from gearshift.core.surroundings import surroundings

CLOSE = 1e-2  # relative distance of a traced output from the module's own, above which the trace is dropped
CHANGEABLE = 4  # calls that a state has to last for a graph, above which that is told
CHECKS = 2  # calls of a shape that are computed both ways
KEPT = 8  # shapes that are remembered for one module
STATES = 3  # and states of it, to switch between: adapters, say


class Key(NamedTuple):
    """What a graph is for.

    Attributes:
        call: the shapes and plain values of the arguments, and the gear; equal in other processes too.
        mark: the state of the module (`fingerprint.Mark`).
    """

    call: str
    mark: Any


class Traced:
    """A module's forward as a TorchScript graph for each shape of its arguments, each gear and each state it is in.

    The first calls of a shape are computed by the module too: a graph whose output differs, or that cannot be traced,
    is given up, which is said once. Where weights, attributes, layers or hooks were changed since, another graph is
    made, once that has lasted. On CUDA the graph is captured (torch.cuda.CUDAGraph), and outputs are copied out of it.

    Args:
        tally: takes sentences for the user and counts graphs.
    """

    word = "traced"

    def __init__(self, module: Any, tally: Tally) -> None:
        from gearshift.steps.fingerprint import Fingerprint

        self.module, self.tally = module, tally
        self.fingerprint = Fingerprint(module)
        self._graphs: dict[Key, Graph | None] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        if torch.is_grad_enabled() and any(t.requires_grad for t in inputs_of(args, kwargs)):
            return self._own(*args, **kwargs)
        state = self.fingerprint.now()
        key = Key(_call(args, kwargs), state.mark)
        graphs = self._graphs
        if key not in graphs:
            if state.hooks or not self.fingerprint.lasts:
                self._say_why_not(state.hooks)
                return self._own(*args, **kwargs)
            key, graphs = self._add(key, args, kwargs)
        graph = graphs[key]
        if graph is None:
            return self._own(*args, **kwargs)
        output = graph(args, kwargs)
        if graph.checks < CHECKS:
            graph.checks += 1
            own = self._own(*args, **kwargs)
            off = _distance(own, output)
            if not off <= CLOSE:
                self._give_up(key, f"its output was off by {off:.2g}")
                return own
        return output

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": {}}

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)

    def _add(self, key: Key, args: tuple, kwargs: dict[str, Any]) -> tuple[Key, dict[Key, Graph | None]]:
        """Make a graph for a call, in place of an older one: the key it has in the end, and all graphs."""
        if any(each.call == key.call and each.mark != key.mark for each in self._graphs):
            self.tally.tell_changed(self.module, self.fingerprint.changed, self.word)
        graph = self._made(key, args, kwargs)
        key = Key(key.call, self.fingerprint.forgive().mark)
        marks = list(dict.fromkeys([key.mark, *(each.mark for each in reversed(self._graphs))]))[:STATES]
        kept = [(k, g) for k, g in self._graphs.items() if k.mark in marks and k != key]
        self._graphs = graphs = dict([*kept, (key, graph)][-KEPT:])
        return key, graphs

    def _say_why_not(self, hooks: str) -> None:
        if hooks:
            self.tally.tell_hooks(self.module, hooks, self.word)
        elif self.fingerprint.patience > CHANGEABLE:
            changed = listed(self.fingerprint.changed)
            self.tally.tell(
                f"{name_of(self.module)} is changed every few calls ({changed}); it runs as it is, not {self.word}, "
                "until some calls find it unchanged."
            )

    def form(self, holder: Any, example: tuple, key: Key) -> Callable[..., Any]:
        """The forward in its other form: takes the tensors of a call, and gives those of its output.

        Args:
            holder: a module that does so in torch.
            example: the tensors of this call.
            key: of the call among others.
        """
        return _traced(holder, example)

    def _make(self, key: Key, args: tuple, kwargs: dict[str, Any]) -> Graph:
        import torch

        template: dict[str, Any] = {}
        holder = flat(self.module, self._own, args, kwargs, template)
        example = tuple(inputs_of(args, kwargs))
        with torch.no_grad():
            prepare(self.module)
            run = self.form(holder, example, key)
            run(*example)
            holder(*example)  # for the structure of the output
        return Graph(run, template["output"])

    def _made(self, key: Key, args: tuple, kwargs: dict[str, Any]) -> Graph | None:
        try:
            with surroundings():
                warnings.simplefilter("ignore")
                graph = self._make(key, args, kwargs)
        except Exception as error:  # whatever tracing stumbles over, the module itself still runs
            self._say(f"it could not be {self.word} ({told(error)})")
            return None
        self.tally.count(1, again=any(self._graphs.values()))
        return graph

    def _give_up(self, key: Key, reason: str) -> None:
        self._graphs[key] = None
        self._say(reason)

    def _say(self, reason: str) -> None:
        self.tally.tell(f"{name_of(self.module)} is not {self.word} and runs eagerly: {reason}.")


class Graph:
    """One forward in another form, for arguments of one structure."""

    def __init__(self, run: Callable[..., Any], template: Any) -> None:
        self.checks = 0
        self._run, self._template = run, template

    def __call__(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        import torch

        from gearshift.steps.tree import with_tensors

        with torch.no_grad():
            output = self._run(*inputs_of(args, kwargs))
        return with_tensors(self._template, [output] if isinstance(output, torch.Tensor) else list(output))


def flat(module: Any, own: Callable[..., Any], args: tuple, kwargs: dict[str, Any], template: dict[str, Any]) -> Any:
    """A module that takes the tensors of a call and gives those of the output, whose structure goes to `template`."""
    from torch import nn

    from gearshift.steps.tree import tensors, with_tensors

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module  # its weights are parameters of the graph
            self.training = module.training

        def forward(self, *given: Any) -> tuple[Any, ...]:
            left = list(given)
            template["output"] = own(*with_tensors(args, left), **with_tensors(kwargs, left))
            return tuple(tensors(template["output"]))

    return Flat()


def prepare(module: Any) -> None:
    """Tell the gates that a graph looks into that it is about to be made, for the current run."""
    from gearshift.steps.run import current

    for gate in traced_gates(module):
        gate.prepare(current())


def traced_gates(module: Any) -> Iterator[Any]:
    """The gates inside of a module that graphs look into."""
    from gearshift.steps.gate import gate_of

    for inner in module.modules():
        gate = gate_of(inner)
        if gate is not None and gate.traced:
            yield gate


def _traced(holder: Any, example: tuple) -> Callable[..., Any]:
    """The forward traced, frozen, and on CUDA captured."""
    import torch

    with _numbers_for_bools():
        traced = torch.jit.trace(holder, example, check_trace=False)
    run = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
    return _captured(run, example) if example and example[0].is_cuda else run


def _numbers_for_bools() -> Any:
    """A context for the tracer, which knows no masked_fill whose value is a bool (HunyuanVideo's masks have some)."""
    import torch
    from torch.overrides import TorchFunctionMode

    class NumbersForBools(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
            if function in (torch.Tensor.masked_fill, torch.masked_fill):
                args = tuple(int(a) if isinstance(a, bool) else a for a in args)
            return function(*args, **(kwargs or {}))

    return NumbersForBools()


def _captured(run: Callable[..., Any], example: tuple) -> Callable[..., Any]:
    """The same as a CUDA graph: inputs are copied in, and outputs out."""
    import torch

    inputs = [t.clone() for t in example]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(*inputs)

    def replay(*given: Any) -> tuple:
        for held, new in zip(inputs, given, strict=True):
            held.copy_(new)
        graph.replay()
        return tuple(t.clone() for t in ([outputs] if isinstance(outputs, torch.Tensor) else outputs))

    return replay


def inputs_of(args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    from gearshift.steps.tree import tensors

    return [*tensors(args), *tensors(kwargs)]


def _call(args: tuple, kwargs: dict[str, Any]) -> str:
    """What tells calls apart for which there are graphs: shapes, plain values, the gear, autocasting."""
    import torch

    from gearshift.steps.run import current
    from gearshift.steps.tree import signature

    run = current()
    casting = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
    return repr((signature(args, kwargs), _plain(args), _plain(kwargs), None if run is None else run.gear, casting))


def _plain(value: Any) -> Any:
    """The structure of arguments with nothing in the tensors' places, to tell calls apart by."""
    from gearshift.steps.tree import mapped

    return mapped(value, lambda tensor: None)


def _distance(exact: Any, other: Any) -> float:
    """Largest relative distance of the tensors of two outputs; infinite for outputs of different shape."""
    from gearshift.steps.tree import tensors

    pairs = list(zip(tensors(exact), tensors(other), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    exact_and_other = [(a.detach().float(), b.detach().float()) for a, b in pairs]
    found = [float((a - b).norm() / a.norm().clamp_min(1e-12)) for a, b in exact_and_other]
    return max(found, default=0.0)
