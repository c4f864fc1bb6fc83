"""Forwards in OpenVINO and ONNX Runtime, converted directly: torch.compile's own ways to them are gone or broken."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gearshift.algorithms.common.compile_stats import Tally
from gearshift.algorithms.common.tracing import Key, Traced
from gearshift.core.surroundings import quiet


class Converted(Traced):
    """A module's forward in another runtime on the CPU, for each shape of its arguments and each gear.

    The runtime holds a copy of the weights; the module's own stay, for other shapes and for taking it off.

    Args:
        backend: one of `RUNTIMES`.
    """

    word = "converted"

    def __init__(self, module: Any, backend: str, tally: Tally) -> None:
        super().__init__(module, tally)
        self.backend = backend

    def form(self, holder: Any, example: tuple, key: Key) -> Callable[..., Any]:
        return RUNTIMES[self.backend](holder, example)


def _openvino(holder: Any, example: tuple) -> Callable[..., Any]:
    """Through OpenVINO's own reader of torch modules."""
    import openvino
    import torch

    converted = openvino.convert_model(holder, example_input=example, input=[list(t.shape) for t in example])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled, requests = _openvino_core().compile_model(converted, "CPU", options), threading.local()

    def run(*given: Any) -> tuple:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()  # one serves one thread at a time
        outputs = requests.own.infer([t.contiguous().numpy() for t in given], share_inputs=True)
        return tuple(torch.from_numpy(outputs[i]) for i in range(len(outputs)))

    return run


@cache
def _openvino_core() -> Any:
    """The one core of the process, which is never given up.

    A core's CPU plugin gives its thread a stack for signal handlers and frees it when it goes; of two that go in the
    order in which they came, the second puts the freed stack back, and the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _onnxruntime(holder: Any, example: tuple) -> Callable[..., Any]:
    """Through an ONNX file, which is gone afterwards."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, quiet("torch.onnx"):  # it lists what other graphs would need
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(holder, example, str(path), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*given: Any) -> tuple:
        outputs = session.run(None, {n: t.contiguous().numpy() for n, t in zip(names, given, strict=True)})
        return tuple(torch.from_numpy(output) for output in outputs)

    return run


RUNTIMES: dict[str, Callable[[Any, tuple], Callable[..., Any]]] = {"openvino": _openvino, "onnxrt": _onnxruntime}
